"""What tokens of one level share: bricks for 1D codes that are ordered in levels, coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["LevelLinear", "block_causal", "halving_levels", "repeat_levels"]


def halving_levels(num_tokens: int) -> list[tuple[int, int]]:
    """Grids of 1, 1, 2, 4, ... N / 2 tokens, as square as they can be and wider than high: (1, 1), (1, 1), (1, 2), ...

    Raises:
        ValueError: N is no power of two, or below 2.
    """
    power = num_tokens.bit_length() - 1
    if num_tokens < 2 or num_tokens != 2**power:
        raise ValueError(f"levels that double need a power of two of tokens, at least 2; got {num_tokens}")
    return [(1, 1), *((2 ** (level // 2), 2 ** (level - level // 2)) for level in range(power))]


def block_causal(sizes: Sequence[int]) -> Tensor:
    """(L, L) bool for L = sum of sizes: tokens see those of their own block and of the blocks before it."""
    block = torch.arange(len(sizes)).repeat_interleave(torch.tensor(list(sizes)))
    return block[:, None] >= block


def repeat_levels(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """One row (W) per level -> one per token: (levels, W) -> (N, W)."""
    return torch.cat([row.expand(size, -1) for row, size in zip(rows, sizes, strict=True)])


class LevelLinear(nn.Module):
    """A linear map for the tokens of each level.

    Args:
        sizes: tokens of each level.
        dim_in, dim_out: widths.
        shared: one map for all levels.
    """

    def __init__(self, sizes: Sequence[int], dim_in: int, dim_out: int, *, shared: bool = False) -> None:
        super().__init__()
        self.sizes = [sum(sizes)] if shared else list(sizes)
        self.maps = nn.ModuleList(nn.Linear(dim_in, dim_out) for _ in self.sizes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim_in) -> (B, N, dim_out)."""
        parts = x.split(self.sizes, dim=1)
        return torch.cat([linear(part) for linear, part in zip(self.maps, parts, strict=True)], dim=1)
