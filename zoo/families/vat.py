"""VAT: shapes as tokens of growing scales along a line, each scale adding to the ones before (arXiv 2412.02202)."""

from __future__ import annotations

from typing import ClassVar

from decoders import InContextTriplane
from encoders import InContextEncoder
from zoo.families.shape import ShapeTokenizer

__all__ = ["VAT"]


class VAT(ShapeTokenizer):
    """`encoders.InContextEncoder`, `quantizers.VVQ` (or any other), `decoders.InContextTriplane`.

    There is no public code and no checkpoint: this follows the paper's text and figures, and what they leave open is
    chosen here; the docs page of the family gives every choice and its reason.

    Clouds hold normals; the order of their points has no influence. Tokens come scale by scale, coarse to fine: the
    codes of the first scales alone decode to a coarser shape, `tokens.keep(1 + 4 + 9)`.
    """

    default_bounds: ClassVar[float] = 1.0

    encoder: InContextEncoder
    decoder: InContextTriplane
