"""Decoders: latents (B, N, D) to signals."""

from .conv import PatchConvDecoder
from .dac import DACDecoder
from .flextok import FlexTokDecoder
from .flow import AdaptiveProjected, ClassifierFree, RectifiedFlow
from .maskgit_vqgan import MaskGITDecoder
from .mimi import MimiDecoder
from .pyramid import PyramidDecoder
from .restok import ResTokDecoder
from .retok import ReTokDecoder
from .seanet import SEANetDecoder
from .slots import SlotDecoder
from .snac import SNACDecoder
from .spectral import IMDCTHead, ISTFTHead
from .vae import KLDecoder
from .vit1d import ProxyDecoder, ViT1DDecoder
from .vocos import ConvNeXtBackbone, ResNetBackbone, VocosDecoder

__all__ = [
    "ConvNeXtBackbone",
    "AdaptiveProjected",
    "ClassifierFree",
    "DACDecoder",
    "FlexTokDecoder",
    "IMDCTHead",
    "ISTFTHead",
    "KLDecoder",
    "RectifiedFlow",
    "MaskGITDecoder",
    "MimiDecoder",
    "PatchConvDecoder",
    "ProxyDecoder",
    "PyramidDecoder",
    "SlotDecoder",
    "ReTokDecoder",
    "ResNetBackbone",
    "ResTokDecoder",
    "SEANetDecoder",
    "SNACDecoder",
    "ViT1DDecoder",
    "VocosDecoder",
]
