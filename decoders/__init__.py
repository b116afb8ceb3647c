"""Decoders: latents (B, N, D) to signals."""

from .conv import PatchConvDecoder
from .dac import DACDecoder
from .direct3d import RolloutTriplane
from .flextok import FlexTokDecoder
from .flow import AdaptiveProjected, ClassifierFree, RectifiedFlow
from .in_context import InContextTriplane
from .maskgit_vqgan import MaskGITDecoder
from .michelangelo import MichelangeloDecoder
from .mimi import MimiDecoder
from .pyramid import PyramidDecoder
from .restok import ResTokDecoder
from .retok import ReTokDecoder
from .seanet import SEANetDecoder
from .slots import SlotDecoder
from .snac import SNACDecoder
from .spectral import IMDCTHead, ISTFTHead
from .trellis import VoxelDecoder
from .vae import KLDecoder
from .vecset import VecSetDecoder
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
    "InContextTriplane",
    "KLDecoder",
    "RectifiedFlow",
    "MaskGITDecoder",
    "MichelangeloDecoder",
    "MimiDecoder",
    "PatchConvDecoder",
    "ProxyDecoder",
    "PyramidDecoder",
    "SlotDecoder",
    "ReTokDecoder",
    "ResNetBackbone",
    "ResTokDecoder",
    "RolloutTriplane",
    "SEANetDecoder",
    "SNACDecoder",
    "VecSetDecoder",
    "ViT1DDecoder",
    "VocosDecoder",
    "VoxelDecoder",
]
