"""Token-Shuffle: neighbours in a grid merged into one element of the sequence (arXiv 2504.17789)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from encoders.layers.swiglu import SwiGLU
from zoo.generators.base import Vocabulary
from zoo.generators.heads.base import Head

__all__ = ["Shuffle"]


class Merger(nn.Module):
    """Residual MLPs x + mlp(norm(x)): (..., W) -> (..., W)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-5) for _ in range(depth))
        self.mlps = nn.ModuleList(SwiGLU(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            x = x + mlp(norm(x))
        return x


class Shuffle(Head):
    """Windows of s x s codes of a grid are one slot, drawn in one step: N / s^2 steps.

    Embeddings are shrunk s^2-fold, joined in channels, and mixed by MLPs; on the way out the same is undone, and all
    codes of a window are said at once (Sec. 3.2).

    Args:
        window: s.
        depth: MLPs on the way in, and as many on the way out.
    """

    def __init__(self, window: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.window, self.mlps = window, depth

    def connect(self, vocabulary: Vocabulary, width: int) -> None:
        """See `Head`."""
        side = self.window
        if vocabulary.grid is None or vocabulary.depth != 1 or vocabulary.flexible:
            raise ValueError(f"Shuffle merges the codes of one codebook on a grid, got {vocabulary}")
        if any(length % side for length in vocabulary.grid) or width % side**2:
            raise ValueError(
                f"a grid of {vocabulary.grid} and a width of {width} do not split into windows of {side} x {side}; "
                "choose another window"
            )
        rows, columns = vocabulary.grid
        cells = torch.arange(rows * columns, device="cpu").view(rows, columns)
        windows = rearrange(cells, "(h a) (w b) -> (h w) (a b)", a=side, b=side)
        self.arrange(vocabulary, width, windows.reshape(-1, 1), (1,) * len(windows), rows=side**2)
        self.shrink = nn.Linear(width, width // side**2, bias=False)
        self.merge = Merger(width, self.mlps)
        self.split = Merger(width, self.mlps)
        self.grow = nn.Linear(width // side**2, width, bias=False)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Ids (B, n s^2, 1) -> (B, n, W)."""
        small = self.shrink(self.embed_codes(ids[..., 0]))
        return self.merge(rearrange(small, "b (n c) w -> b n (c w)", c=self.window**2))

    def expand(self, hidden: Tensor) -> Tensor:
        """(B, n, W) -> (B, n s^2, W)."""
        return self.grow(rearrange(self.split(hidden), "b n (c w) -> b (n c) w", c=self.window**2))
