"""A 1D encoder whose tokens start as a coarse-to-fine pyramid of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from encoders.layers.attention import Block, start_as_identity
from encoders.layers.dct import init_patch_analysis
from encoders.layers.pyramid import check_levels, gather_levels
from encoders.layers.residual import ResidualConv

__all__ = ["PyramidEncoder"]


class PyramidEncoder(nn.Module):
    """Image to N tokens in coarse-to-fine order: convolutions over patches, pooling by level, a transformer.

    Tokens are not learned constants but pooled features, each level holding what the coarser ones left (the idea of
    ResTok, arXiv 2601.03955), so that even a small model trained for an hour has an ordered code. The transformer then
    lets every token say more than the mean of its cell.

    Args:
        image_size: side of the square input, pixels.
        levels: (h, w) grids of tokens, coarse to fine; each divides the last.
        dim: width of one latent.
        patch_size: pixels of one cell of the feature map.
        conv_width, conv_depth: of the convolutions over patches.
        width, depth, heads: of the transformer over tokens.

    Raises:
        ValueError: sizes that do not divide each other.
    """

    def __init__(
        self,
        *,
        image_size: int,
        levels: Sequence[Sequence[int]],
        dim: int,
        patch_size: int = 8,
        conv_width: int = 128,
        conv_depth: int = 2,
        width: int = 192,
        depth: int = 2,
        heads: int = 6,
    ) -> None:
        super().__init__()
        self.levels = check_levels(levels)
        if image_size % patch_size or any((image_size // patch_size) % side for side in self.levels[-1]):
            raise ValueError(f"levels {self.levels} do not divide {image_size} pixels in patches of {patch_size}")
        self.image_size, self.dim = image_size, dim
        self.scales = tuple(h * w for h, w in self.levels)
        self.num_tokens = sum(self.scales)
        self.patch = nn.Conv2d(3, conv_width, patch_size, stride=patch_size)
        self.convs = nn.Sequential(*(ResidualConv(conv_width) for _ in range(conv_depth)))
        self.embedding = nn.Linear(conv_width, width)
        self.position = nn.Parameter(torch.randn(self.num_tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(start_as_identity(Block(width, heads)) for _ in range(depth)))
        self.head = nn.Linear(width, dim)
        self.gain = nn.Parameter(torch.ones(self.num_tokens, dim))
        init_patch_analysis(self.patch)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.eye(width, conv_width))
            self.head.weight.copy_(torch.eye(dim, width))
            for linear in (self.embedding, self.head):
                linear.bias.zero_()
        self.features = {"grid": conv_width}  # what `watch` is called with

    def forward(self, x: Tensor, watch: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] -> latents (B, N, D).

        Args:
            watch: called with "grid" and the features (B, conv_width, h, w) of the patches before they are pooled.
        """
        features = self.convs(self.patch(x))
        if watch is not None:
            watch("grid", features)
        tokens = self.embedding(gather_levels(features, self.levels)) + self.position
        return self.head(self.blocks(tokens)) * self.gain
