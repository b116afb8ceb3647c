"""Rows of text in the sequence of a vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.layers.attention import embedding

__all__ = ["TextRows", "append_text"]


class TextRows(nn.Module):
    """Text features as rows of a transformer's sequence: a linear map and a learned position each.

    Args:
        dim: width of the features, 768 for the text tower of CLIP-L.
        length: most rows, 77 for CLIP.
        width: of the transformer.
    """

    def __init__(self, dim: int, length: int, width: int) -> None:
        super().__init__()
        if min(dim, length) < 1:
            raise ValueError(f"text_dim and text_length must be at least 1, got {dim} and {length}")
        self.dim, self.length = dim, length
        self.proj = nn.Linear(dim, width)
        self.position_embedding = embedding(length, width)

    def forward(self, text: Tensor) -> Tensor:
        """Features (B, L, dim) with 1 <= L <= length to rows (B, L, width).

        Raises:
            ValueError: another shape.
        """
        if text.ndim != 3 or text.shape[2] != self.dim or not 1 <= text.shape[1] <= self.length:
            raise ValueError(
                f"text features must be (B, 1 to {self.length}, {self.dim}), got {tuple(text.shape)}; "
                "do they come from the text tower that this model was trained with?"
            )
        return self.proj(text.to(self.proj.weight.dtype)) + self.position_embedding[: text.shape[1]]


def append_text(sequence: Tensor, rows: TextRows | None, text: Tensor | None) -> Tensor:
    """A sequence (B, S, W) with the rows of a text behind it, (B, S + L, W).

    Args:
        rows: None for a transformer that reads no text.
        text: (B, L, dim); needed with `rows`, refused without.

    Raises:
        ValueError: a text is missing, or there is one that nobody reads, or its batch is another.
    """
    if rows is None:
        if text is not None:
            raise ValueError("this transformer reads no text; build it with text_dim and text_length, or leave it out")
        return sequence
    if text is None:
        raise ValueError(f"this transformer reads text; give it features (B, 1 to {rows.length}, {rows.dim})")
    if len(text) != len(sequence):
        raise ValueError(f"{len(sequence)} items need as many texts, got {len(text)}")
    return torch.cat([sequence, rows(text).to(sequence.dtype)], dim=1)
