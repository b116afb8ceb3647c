"""One-D-Piece: 1D image tokens whose prefixes decode on their own (arXiv 2501.10064)."""

from __future__ import annotations

from typing import ClassVar

from decoders import ProxyDecoder, PyramidDecoder, ViT1DDecoder
from encoders import PyramidEncoder, ViT1D
from quantizers import Quantizer
from zoo.families.dropout import NestedDropout
from zoo.families.titok import TiTok
from zoo.spec import Order

__all__ = ["OneDPiece"]


class OneDPiece(TiTok):
    """TiTok trained with tail token drop: the first tokens carry the most, and any prefix decodes.

    Args:
        encoder, quantizer, decoder, proxy_training: as in `TiTok`.
        dropout: None for tail token drop: one length for the whole batch, uniform in 1 to N, drawn at every call.
    """

    order: ClassVar[Order] = "coarse_to_fine"
    flexible: ClassVar[bool] = True

    def __init__(
        self,
        encoder: ViT1D | PyramidEncoder,
        quantizer: Quantizer,
        decoder: ViT1DDecoder | ProxyDecoder | PyramidDecoder,
        proxy_training: bool = False,
        dropout: NestedDropout | None = None,
    ) -> None:
        dropout = dropout or NestedDropout("uniform", per="batch")
        super().__init__(encoder, quantizer, decoder, proxy_training, dropout)
