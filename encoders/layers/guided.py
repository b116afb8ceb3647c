"""Patches of a picture beside what another tokenizer sees in them."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["GuidedPatches", "check_square"]


def check_square(x: Tensor, side: int, name: str) -> None:
    """Raise ValueError unless x is a batch of square colour images of that side."""
    if x.ndim != 4 or tuple(x.shape[1:]) != (3, side, side):
        raise ValueError(f"{name} expects images (B, 3, {side}, {side}), got {tuple(x.shape)}; resize or crop them")


class GuidedPatches(nn.Module):
    """A linear patch embedding and the latents of a grid encoder, side by side along the channels.

    Args:
        base: images (B, 3, H, W) in [-1, 1] to latents (B, h * w, base.dim); has `dim` and `downsample`.
        patch_size: side of a patch, pixels; that of a cell of `base`.
        width: channels of both together.
        base_first: the latents of `base` come before the patch embedding.

    Raises:
        ValueError: cells and patches differ, or no channel is left for the patches.
    """

    def __init__(self, base: nn.Module, *, patch_size: int, width: int, base_first: bool) -> None:
        super().__init__()
        dim, step = int(base.dim), int(base.downsample)  # type: ignore[arg-type]
        if step != patch_size:
            raise ValueError(f"a patch is {patch_size} pixels wide, a cell of the base encoder {step}; make them equal")
        if dim >= width:
            raise ValueError(f"width={width} leaves no channel for the patches beside the {dim} of the base encoder")
        self.patch_size, self.base_first = patch_size, base_first
        self.base = base
        self.embedding = nn.Linear(3 * patch_size**2, width - dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> features (B, h * w, width) and the base's latents (B, h * w, base.dim)."""
        latents = self.base(x)
        pixels = (x.to(self.embedding.weight.dtype) + 1) * 0.5
        patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_size, q=self.patch_size)
        patches = self.embedding(patches)
        pair = (latents, patches) if self.base_first else (patches, latents)
        return torch.cat(pair, dim=-1), latents
