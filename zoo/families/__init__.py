"""Families: one class each, an encoder, a quantizer and a decoder put together."""

from .alit import ALIT
from .audio import AudioTokenizer
from .autoencoder_kl import AutoencoderKL
from .codec import AudioCodec
from .dac import DAC
from .direct3d import Direct3D
from .dropout import NestedDropout
from .encodec import EnCodec
from .flextok import FlexTok
from .grid import GridTokenizer
from .karl import KARL
from .maskgit_vqgan import MaskGITVQGAN
from .michelangelo import Michelangelo
from .mimi import Mimi
from .onedpiece import OneDPiece
from .restok import ResTok
from .retok import ReTok
from .s3tokenizer import S3Tokenizer
from .shape import Field, Placement, ShapeTokenizer
from .snac import SNAC
from .speechtokenizer import SpeechTokenizer
from .sylber import Sylber
from .ta_titok import TATiTok
from .text import CLIPText, HashedText, T5Text
from .textok import TexTok
from .titok import TiTok
from .trellis import Trellis
from .vat import VAT
from .vecset import VecSet
from .vocos import Vocos
from .wavtokenizer import WavTokenizer

__all__ = [
    "ALIT",
    "AudioCodec",
    "AudioTokenizer",
    "AutoencoderKL",
    "CLIPText",
    "DAC",
    "Direct3D",
    "EnCodec",
    "Field",
    "FlexTok",
    "GridTokenizer",
    "HashedText",
    "KARL",
    "MaskGITVQGAN",
    "Michelangelo",
    "Mimi",
    "NestedDropout",
    "OneDPiece",
    "Placement",
    "ReTok",
    "ResTok",
    "S3Tokenizer",
    "ShapeTokenizer",
    "Sylber",
    "SpeechTokenizer",
    "SNAC",
    "T5Text",
    "TATiTok",
    "TexTok",
    "TiTok",
    "Trellis",
    "VecSet",
    "VAT",
    "Vocos",
    "WavTokenizer",
]
