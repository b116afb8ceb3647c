"""Encoders: signals to latents (B, N, D)."""

from .conv import PatchConvEncoder
from .dac import DACEncoder
from .flextok import FlexTokEncoder
from .halting import HaltingViT1D
from .hubert import HuBERTEncoder
from .maskgit_vqgan import MaskGITEncoder
from .mel import MelEncoder
from .mimi import MimiEncoder
from .pyramid import PyramidEncoder
from .restok import ResTokEncoder
from .retok import ReTokEncoder
from .rollout import RolloutViT1D
from .s3 import S3Encoder
from .seanet import SEANetEncoder
from .snac import SNACEncoder
from .spectral import SpectralEncoder
from .vae import KLEncoder
from .vit1d import ViT1D

__all__ = [
    "DACEncoder",
    "FlexTokEncoder",
    "HaltingViT1D",
    "HuBERTEncoder",
    "KLEncoder",
    "MaskGITEncoder",
    "MelEncoder",
    "MimiEncoder",
    "PatchConvEncoder",
    "PyramidEncoder",
    "RolloutViT1D",
    "ReTokEncoder",
    "ResTokEncoder",
    "S3Encoder",
    "SEANetEncoder",
    "SNACEncoder",
    "SpectralEncoder",
    "ViT1D",
]
