"""Decoders: latents (B, N, D) to signals."""

from .conv import PatchConvDecoder
from .flextok import FlexTokDecoder
from .flow import AdaptiveProjected, ClassifierFree, RectifiedFlow
from .maskgit_vqgan import MaskGITDecoder
from .pyramid import PyramidDecoder
from .restok import ResTokDecoder
from .retok import ReTokDecoder
from .slots import SlotDecoder
from .vae import KLDecoder
from .vit1d import ProxyDecoder, ViT1DDecoder

__all__ = [
    "AdaptiveProjected",
    "ClassifierFree",
    "FlexTokDecoder",
    "KLDecoder",
    "RectifiedFlow",
    "MaskGITDecoder",
    "PatchConvDecoder",
    "ProxyDecoder",
    "PyramidDecoder",
    "SlotDecoder",
    "ReTokDecoder",
    "ResTokDecoder",
    "ViT1DDecoder",
]
