"""Tokens taken apart into the sequences of codes that statistics are about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.metrics.codes import check_range
from zoo.spec import TokenizerSpec
from zoo.tokens import Tokens

__all__ = ["Strand", "alphabets", "strands"]


@dataclass(frozen=True, slots=True)
class Strand:
    """Codes of one codebook at one scale, of B items.

    Attributes:
        book: the codebook's number in `alphabets`.
        codes: (B, n) int64.
        mask: (B, n) bool, False for padding.
        places: (n,) int64, where the columns stand in `Tokens.indices`.
    """

    book: int
    codes: Tensor
    mask: Tensor
    places: Tensor

    @property
    def flat(self) -> Tensor:
        """The valid codes (M,), item by item."""
        return self.codes[self.mask]

    @property
    def flat_places(self) -> Tensor:
        """Where they stand (M,)."""
        return self.places.expand_as(self.codes)[self.mask]


def alphabets(spec: TokenizerSpec | Tokens) -> tuple[int, ...]:
    """Entries of every codebook: Q of them, or Q for each scale where scales have codebooks of their own.

    Raises:
        ValueError: continuous latents have no codes.
    """
    if not spec.codebook_sizes:
        raise ValueError("continuous latents have no codes to count; measure a tokenizer that quantizes")
    return spec.codebook_sizes * (len(spec.scales) if spec.distinct_scales and spec.scales else 1)


def strands(tokens: Tokens, sizes: Sequence[int]) -> Iterator[Strand]:
    """Every codebook at every scale, coarse to fine, checked as a whole before the first is given.

    Args:
        tokens: of codes.
        sizes: entries of each codebook of the tokenizer, as `alphabets` gives them. The tokens may have fewer codebooks
            (`Tokens.keep_codebooks`) or scales (`Tokens.keep`).

    Raises:
        ValueError: the tokens have other codebooks, or an index lies outside its own.
    """
    books = len(tokens.codebook_sizes)
    widths = tokens.scales or (tokens.num_tokens,)
    own = tokens.distinct_scales and bool(tokens.scales)
    expected = tokens.codebook_sizes * (len(widths) if own else 1)
    if not books or expected != tuple(sizes[: len(expected)]):
        raise ValueError(f"expected tokens of codebooks {tuple(sizes)}, got {expected}; do they belong together?")
    places = torch.arange(tokens.num_tokens, device=tokens.indices.device)
    parts = zip(
        tokens.indices.split(list(widths), 1),
        tokens.mask.split(list(widths), 1),
        places.split(list(widths)),
        strict=True,
    )
    found = [
        Strand((scale * books if own else 0) + book, indices[..., book], mask, at)
        for scale, (indices, mask, at) in enumerate(parts)
        for book in range(books)
    ]
    for strand in found:
        check_range(strand.flat, sizes[strand.book])
    yield from found
