"""Encoders: signals to latents (B, N, D)."""

from .conv import PatchConvEncoder
from .flextok import FlexTokEncoder
from .halting import HaltingViT1D
from .maskgit_vqgan import MaskGITEncoder
from .pyramid import PyramidEncoder
from .restok import ResTokEncoder
from .retok import ReTokEncoder
from .rollout import RolloutViT1D
from .vae import KLEncoder
from .vit1d import ViT1D

__all__ = [
    "FlexTokEncoder",
    "HaltingViT1D",
    "KLEncoder",
    "MaskGITEncoder",
    "PatchConvEncoder",
    "PyramidEncoder",
    "RolloutViT1D",
    "ReTokEncoder",
    "ResTokEncoder",
    "ViT1D",
]
