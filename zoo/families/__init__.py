"""Families: one class each, an encoder, a quantizer and a decoder put together."""

from .grid import GridTokenizer
from .maskgit_vqgan import MaskGITVQGAN
from .onedpiece import OneDPiece
from .titok import TiTok

__all__ = ["GridTokenizer", "MaskGITVQGAN", "OneDPiece", "TiTok"]
