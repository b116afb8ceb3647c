"""Encoders: signals to latents (B, N, D)."""

from .conv import PatchConvEncoder
from .maskgit_vqgan import MaskGITEncoder
from .pyramid import PyramidEncoder
from .vit1d import ViT1D

__all__ = ["MaskGITEncoder", "PatchConvEncoder", "PyramidEncoder", "ViT1D"]
