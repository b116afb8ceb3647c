"""The encoder of KARL: one pass that also says which of its tokens are needed (arXiv 2507.07995)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from encoders.layers.attention import Transformer, embedding, init_weights
from encoders.layers.guided import GuidedPatches, check_square
from encoders.layers.position_map import PositionMap

__all__ = ["Halting", "HaltingViT1D"]

QUALITIES = (
    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.09, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.24, 0.28, 0.32, 0.38,
)  # fmt: skip


class Halting(NamedTuple):
    """Of a pass: latents (B, n, dim), halting logits (B, n), and the base encoder's latents (B, h * w, base.dim)."""

    latents: Tensor
    logits: Tensor
    base: Tensor


class HaltingViT1D(nn.Module):
    """Image and wanted quality to a 1D code of up to N tokens, each with a logit that it is not needed.

    A ViT reads [quality, patches, tokens]. Patches come with the latents of a grid tokenizer; the quality is an error
    that may remain, as the embedding of one of a few bins.

    Args:
        image_size: side of the square input, pixels; a multiple of `patch_size`.
        patch_size: side of a patch, pixels.
        width, depth, heads: of the transformer.
        num_tokens: N, rows of the table of learned tokens.
        dim: width of one output latent.
        base: encoder of the grid tokenizer, with `dim` and `downsample`.
        qualities: upper ends of the bins, rising: mean absolute error of pixels in [0, 1].
        position_side: cells along each axis of the learned map of positions.
        halting_width: hidden channels behind the halting logits.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        num_tokens: int,
        dim: int,
        base: nn.Module,
        qualities: Sequence[float] = QUALITIES,
        position_side: int = 64,
        halting_width: int = 512,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}")
        if list(qualities) != sorted(set(qualities)) or not qualities:
            raise ValueError(f"qualities must rise, got {list(qualities)}")
        self.image_size, self.num_tokens, self.dim = image_size, num_tokens, dim
        self.grid = (image_size // patch_size, image_size // patch_size)
        self.qualities = tuple(float(value) for value in qualities)
        self.position_map = PositionMap(position_side, width)
        self.latent_tokens = embedding(num_tokens, width)
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = Transformer(width, depth, heads)
        self.norm_post = nn.LayerNorm(width)
        self.proj = nn.Linear(width, dim)
        self.norm_halting = nn.LayerNorm(width)
        self.halting = nn.Sequential(nn.Linear(width, halting_width), nn.Tanh(), nn.Linear(halting_width, 1))
        self.apply(init_weights)
        self.quality_embedding = nn.Parameter(torch.tensor(self.qualities)[:, None].repeat(1, width))
        self.patches = GuidedPatches(base, patch_size=patch_size, width=width, base_first=False)
        init_weights(self.patches.embedding)

    def bins(self, quality: Tensor) -> Tensor:
        """The smallest bin at or above each error (B,), the last one where there is none: (B,) int64."""
        ends = torch.tensor(self.qualities, device=quality.device)
        return torch.bucketize(quality.float().contiguous(), ends).clamp_max(len(ends) - 1)

    def transform(self, x: Tensor, bins: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """What the transformer makes of the tokens, (B, tokens, width), and the base's latents; see `forward`."""
        check_square(x, self.image_size, type(self).__name__)
        if not 1 <= tokens <= self.num_tokens:
            raise ValueError(f"tokens must lie in 1..{self.num_tokens}, got {tokens}")
        patches, base = self.patches(x)
        patches = patches + self.position_map(self.grid)
        latents = self.latent_tokens[:tokens].expand(len(x), -1, -1)
        sequence = torch.cat([self.quality_embedding[bins][:, None], patches, latents], dim=1)
        return self.blocks(self.norm_pre(sequence), rows=slice(1 + patches.shape[1], None)), base

    def forward(self, x: Tensor, bins: Tensor, tokens: int) -> Halting:
        """Encode.

        Args:
            x: (B, 3, image_size, image_size), in [-1, 1].
            bins: (B,) int64, the wanted quality as `bins` gives it.
            tokens: how many of the learned tokens take part, 1 to `num_tokens`.

        Raises:
            ValueError: another shape, or more tokens than there are.
        """
        features, base = self.transform(x, bins, tokens)
        logits = self.halting(self.norm_halting(features))[..., 0]
        return Halting(self.proj(self.norm_post(features)), logits, base)
