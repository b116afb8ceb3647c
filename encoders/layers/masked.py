"""What is global in time, for batches whose items differ in length: only real steps count."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MaskedGroupNorm", "blank", "past"]


def past(lengths: Tensor, steps: int) -> Tensor:
    """(B, steps) bool, True past the end of an item of `lengths` (B,) int64."""
    return torch.arange(steps, device=lengths.device) >= lengths[:, None]


def blank(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x (B, C, T) with zeros past `lengths` (B,) int64; None: as it is."""
    return x if lengths is None else x.masked_fill(past(lengths, x.shape[-1])[:, None], 0)


class MaskedGroupNorm(nn.GroupNorm):
    """GroupNorm over groups of channels and the whole time, of which only real steps count."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, C, T), lengths (B,) int64, at least 1 each; None: all steps are real."""
        if lengths is None:
            return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)  # also of a single value
        grouped = x.unflatten(1, (self.num_groups, -1))
        real = ~past(lengths, x.shape[-1])[:, None, None]
        count = (lengths * grouped.shape[2]).to(x.dtype)[:, None, None, None]
        mean = grouped.masked_fill(~real, 0).sum((2, 3), keepdim=True) / count
        centred = (grouped - mean).masked_fill(~real, 0)
        variance = centred.square().sum((2, 3), keepdim=True) / count
        normed = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
        return normed if self.weight is None else normed * self.weight[:, None] + self.bias[:, None]
