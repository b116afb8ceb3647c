"""Families: one class each, an encoder, a quantizer and a decoder put together."""

from .alit import ALIT
from .audio import AudioTokenizer
from .autoencoder_kl import AutoencoderKL
from .codec import AudioCodec
from .dac import DAC
from .dropout import NestedDropout
from .encodec import EnCodec
from .flextok import FlexTok
from .grid import GridTokenizer
from .karl import KARL
from .maskgit_vqgan import MaskGITVQGAN
from .mimi import Mimi
from .onedpiece import OneDPiece
from .restok import ResTok
from .retok import ReTok
from .s3tokenizer import S3Tokenizer
from .snac import SNAC
from .speechtokenizer import SpeechTokenizer
from .sylber import Sylber
from .ta_titok import TATiTok
from .text import CLIPText, HashedText, T5Text
from .textok import TexTok
from .titok import TiTok
from .vocos import Vocos
from .wavtokenizer import WavTokenizer

__all__ = [
    "ALIT",
    "AudioCodec",
    "AudioTokenizer",
    "AutoencoderKL",
    "CLIPText",
    "DAC",
    "EnCodec",
    "FlexTok",
    "GridTokenizer",
    "HashedText",
    "KARL",
    "MaskGITVQGAN",
    "Mimi",
    "NestedDropout",
    "OneDPiece",
    "ReTok",
    "ResTok",
    "S3Tokenizer",
    "Sylber",
    "SpeechTokenizer",
    "SNAC",
    "T5Text",
    "TATiTok",
    "TexTok",
    "TiTok",
    "Vocos",
    "WavTokenizer",
]
