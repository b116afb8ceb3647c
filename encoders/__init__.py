"""Encoders: signals to latents (B, N, D)."""

from .conv import PatchConvEncoder
from .dac import DACEncoder
from .direct3d import TriplaneEncoder
from .flextok import FlexTokEncoder
from .halting import HaltingViT1D
from .hubert import HuBERTEncoder
from .in_context import InContextEncoder
from .maskgit_vqgan import MaskGITEncoder
from .mel import MelEncoder
from .michelangelo import MichelangeloEncoder
from .mimi import MimiEncoder
from .pyramid import PyramidEncoder
from .restok import ResTokEncoder
from .retok import ReTokEncoder
from .rollout import RolloutViT1D
from .s3 import S3Encoder
from .seanet import SEANetEncoder
from .snac import SNACEncoder
from .spectral import SpectralEncoder
from .trellis import VoxelEncoder
from .vae import KLEncoder
from .vecset import VecSetEncoder
from .vit1d import ViT1D

__all__ = [
    "DACEncoder",
    "FlexTokEncoder",
    "HaltingViT1D",
    "HuBERTEncoder",
    "InContextEncoder",
    "KLEncoder",
    "MaskGITEncoder",
    "MelEncoder",
    "MichelangeloEncoder",
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
    "TriplaneEncoder",
    "VecSetEncoder",
    "ViT1D",
    "VoxelEncoder",
]
