"""Families: one class each, an encoder, a quantizer and a decoder put together."""

from .alit import ALIT
from .autoencoder_kl import AutoencoderKL
from .dropout import NestedDropout
from .flextok import FlexTok
from .grid import GridTokenizer
from .karl import KARL
from .maskgit_vqgan import MaskGITVQGAN
from .onedpiece import OneDPiece
from .restok import ResTok
from .retok import ReTok
from .ta_titok import TATiTok
from .text import CLIPText, HashedText, T5Text
from .textok import TexTok
from .titok import TiTok

__all__ = [
    "ALIT",
    "AutoencoderKL",
    "CLIPText",
    "FlexTok",
    "GridTokenizer",
    "HashedText",
    "KARL",
    "MaskGITVQGAN",
    "NestedDropout",
    "OneDPiece",
    "ReTok",
    "ResTok",
    "T5Text",
    "TATiTok",
    "TexTok",
    "TiTok",
]
