"""Decoders: latents (B, N, D) to signals."""

from .conv import PatchConvDecoder
from .maskgit_vqgan import MaskGITDecoder
from .pyramid import PyramidDecoder
from .vit1d import ProxyDecoder, ViT1DDecoder

__all__ = ["MaskGITDecoder", "PatchConvDecoder", "ProxyDecoder", "PyramidDecoder", "ViT1DDecoder"]
