"""TexTok: a tokenizer whose encoder and decoder both read a caption (arXiv 2412.05796), built from the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decoders import ViT1DDecoder
from encoders import ViT1D
from quantizers import Quantizer
from zoo.families.dropout import NestedDropout
from zoo.families.ta_titok import TATiTok
from zoo.families.text import TextTower

__all__ = ["TexTok"]


class TexTok(TATiTok):
    """Patches, learned image tokens and text rows go through one ViT; codes, mask tokens and text rows through another.

    The authors released neither code nor weights. This follows section 3 of the paper on the bricks of `TATiTok`, and
    `docs/families/textok.md` lists what the paper leaves open. Since the encoder reads the caption, `encode` and
    `decode` must be told the same one.

    Args:
        encoder: with `text_dim`.
        quantizer: any; the paper's latents are continuous.
        decoder: with `text_dim`, and pixels for its output.
        text, dropout: as in `TATiTok`.

    Raises:
        ValueError: encoder or decoder reads no text, or widths differ.
    """

    def __init__(
        self,
        encoder: ViT1D,
        quantizer: Quantizer,
        decoder: ViT1DDecoder,
        text: TextTower | None = None,
        dropout: NestedDropout | None = None,
    ) -> None:
        super().__init__(encoder, quantizer, decoder, text, dropout)
        if encoder.text_rows is None:
            raise ValueError("TexTok needs an encoders.ViT1D with text_dim; TATiTok's encoder reads no text")

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Refuse: there is no reference implementation.

        Raises:
            ValueError: always.
        """
        raise ValueError("TexTok was published without code or weights; train one of the recipes textok_*")
