"""The encoder of ResTok: image tokens merge on the way up, and each level keeps what the coarser ones left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import embedding, init_weights
from encoders.layers.fixed import Fixed
from encoders.layers.levels import LevelLinear, block_causal, repeat_levels
from encoders.layers.pyramid import check_levels, gather_levels
from encoders.layers.rotary import RotaryBlock, grid_positions, line_positions, rotary_table
from encoders.maskgit_vqgan import MaskGITEncoder

__all__ = ["ResTokEncoder"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB on [0, 1]
Pooling = Literal["residual", "sequence"]


class ResTokEncoder(nn.Module):
    """Image to a coarse-to-fine 1D code (arXiv 2601.03955).

    Latent tokens start as pooled patches, level by level, and stand behind the image tokens. At the end of each stage
    but the last, every second image token is copied to the front of the sequence, and what stays behind keeps the
    difference. A token sees its own level and those before it: most merged image tokens, ..., patches, latent levels.

    Quirks of the reference that its weights need: merging runs along rows only (a 16 x 16 grid becomes 16 x 8, 16 x 4,
    ...) and keeps a token instead of averaging two, so that the kept token's own residual is zero; the positions of
    each grid start at the number of tokens before it, so that those of patches and latents move with every merge.

    Args:
        image_size: side of the square input, pixels; a multiple of `patch_size`.
        patch_size: side of a patch, pixels; the `downsample` of `pixels`, where given.
        levels: (h, w) grids of latent tokens, coarse to fine; with "residual" pooling each divides the grid of patches.
        dim: width of one output latent.
        width, depth, heads: of the transformer. ResTok: 1024, 24, 16.
        pixels: convolutions that turn pixels into patches; None for a linear map of each patch.
        pooling: how latents start. "residual": each level pools what the coarser ones left of the map of patches;
            "sequence": pooled along the raster of patches, without levels.
        stages: number of stages of equal depth; 1 merges nothing.
        merge: image tokens that become one at the end of a stage.
        residual_images: whether merged tokens are subtracted from those they stand for.
        level_heads: a projection to the code for each level, instead of one for all.
        legacy_reshape: read the (N, width) result as (width, N) before that projection, as the published model was
            trained (see `ViT1D`).
        theta: of the rotary positions.

    Attributes:
        features: what `watch` is called with, and its width.

    Raises:
        ValueError: sizes that do not divide each other.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        levels: Sequence[Sequence[int]],
        dim: int,
        width: int,
        depth: int,
        heads: int,
        pixels: MaskGITEncoder | None = None,
        pooling: Pooling = "residual",
        stages: int = 4,
        merge: int = 2,
        residual_images: bool = True,
        level_heads: bool = True,
        legacy_reshape: bool = False,
        theta: float = 10000.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}")
        if pixels is not None and pixels.downsample != patch_size:
            raise ValueError(f"pixels.downsample={pixels.downsample} must be patch_size={patch_size}")
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling is one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        if not 1 <= stages <= depth or merge < 2:
            raise ValueError(f"stages lie in 1 to depth={depth} and merge is at least 2, got {stages} and {merge}")
        self.image_size, self.patch_size, self.grid = image_size, patch_size, image_size // patch_size
        if self.grid % merge ** (stages - 1):
            raise ValueError(
                f"rows of {self.grid} patches cannot be merged {stages - 1} times by {merge}; set fewer stages"
            )
        self.levels = check_levels(levels)
        if pooling == "residual":
            check_levels([*self.levels, (self.grid, self.grid)])
        self.scales = tuple(h * w for h, w in self.levels)
        self.num_tokens, self.dim = sum(self.scales), dim
        self.pooling, self.merge, self.residual_images = pooling, merge, residual_images
        self.legacy_reshape = legacy_reshape
        self.merging = tuple(number * depth // stages - 1 for number in range(1, stages))
        self.grids = [(self.grid, self.grid // merge**stage) for stage in range(stages)]  # by times merged
        self.pixels = pixels
        self.normalize = Fixed(lambda: input_scale(pixels is not None))
        self.patch_embedding = nn.Linear(3 * patch_size**2 if pixels is None else pixels.dim, width)
        self.level_embedding = embedding(stages, width)
        self.latent_level_embedding = embedding(len(self.scales), width)
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(RotaryBlock(width, heads) for _ in range(depth))
        self.tables = nn.ModuleList(Fixed(partial(self._table, s, width // heads, theta)) for s in range(stages))
        self.masks = nn.ModuleList(Fixed(partial(self._mask, s)) for s in range(stages))
        self.ends = [tuple(accumulate(self._sizes(s)[: s + 1])) for s in range(stages)]  # of image tokens, by level
        self.norm_post = nn.LayerNorm(width)
        self.proj = LevelLinear(self.scales, width, dim, shared=not level_heads)
        self.apply(init_weights)
        self.features = dict.fromkeys(("global", "merged", "image", "image_sum"), width)

    def forward(self, x: Tensor, watch: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, 3, image_size, image_size), in [-1, 1].
            watch: called with image tokens after the last block, which computes them for this alone: "merged" (B,
                width, h, w), the most merged; "global" (B, width), their mean, which training aligns with the class
                token of a vision model; "image" (B, width, h, w), the patches; and "image_sum", all levels spread over
                the patches and added up.

        Returns:
            (B, num_tokens, dim).

        Raises:
            ValueError: another shape.
        """
        if x.ndim != 4 or x.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"ResTokEncoder expects images (B, 3, {self.image_size}, {self.image_size}), got {tuple(x.shape)}; "
                "resize or crop them"
            )
        patches = self._patches(x)
        latents = self._pool(patches) + repeat_levels(self.latent_level_embedding, self.scales)
        tokens = self.norm_pre(torch.cat([patches + self.level_embedding[0], latents], dim=1))
        stage, last = 0, len(self.blocks) - 1
        only_latents = slice(-self.num_tokens, None)
        for number, block in enumerate(self.blocks):
            rows = only_latents if number == last and watch is None else None
            table, mask = self.tables[stage](x.device), self.masks[stage](x.device)
            ends = self.ends[stage] if rows is None else ()
            merge = partial(self._merge, count=self._sizes(stage)[0]) if number in self.merging else None
            tokens = block(tokens, table, mask, rows, ends, merge)
            if merge is not None:
                stage += 1
                merged, rest = tokens.tensor_split([self._sizes(stage)[0]], dim=1)
                tokens = torch.cat([merged + self.level_embedding[stage], rest], dim=1)
        if watch is not None:
            self._show(tokens[:, : -self.num_tokens], watch)
        out = self.norm_post(tokens[:, only_latents])
        if self.legacy_reshape:
            out = out.reshape(len(x), out.shape[2], self.num_tokens).transpose(1, 2)
        return self.proj(out)

    def _patches(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] -> (B, grid * grid, width)."""
        scale, shift = self.normalize(x.device)
        x = (x.float() * scale + shift).to(self.patch_embedding.weight.dtype)
        if self.pixels is not None:
            return self.patch_embedding(self.pixels(x))
        size = self.patch_size
        return self.patch_embedding(rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=size, q=size))

    def _pool(self, patches: Tensor) -> Tensor:
        """Patches (B, grid * grid, width) -> the start of the latents (B, N, width)."""
        if self.pooling == "residual":
            return gather_levels(rearrange(patches, "b (h w) c -> b c h w", h=self.grid), self.levels)
        return F.adaptive_avg_pool1d(patches.transpose(1, 2), self.num_tokens).transpose(1, 2)

    def _merge(self, tokens: Tensor, count: int) -> Tensor:
        """Copy every `merge`-th of the first `count` tokens to the front, and subtract it from those it stands for."""
        top, rest = tokens.tensor_split([count], dim=1)
        merged = top[:, :: self.merge]
        if self.residual_images:
            top = top - merged.repeat_interleave(self.merge, dim=1)
        return torch.cat([merged, top, rest], dim=1)

    def _show(self, tokens: Tensor, watch: Callable[[str, Tensor], None]) -> None:
        """Hand image tokens (B, L, width) over, as maps (B, width, h, w)."""
        parts = tokens.split([h * w for h, w in reversed(self.grids)], dim=1)
        cells = self.grid**2
        total = sum(part.repeat_interleave(cells // part.shape[1], dim=1) for part in parts)
        watch("global", parts[0].mean(1))
        for name, part in (("merged", parts[0]), ("image", parts[-1]), ("image_sum", total)):
            watch(name, rearrange(part, "b (h w) c -> b c h w", h=self.grid))

    def _sizes(self, stage: int) -> list[int]:
        """Tokens of every block of the sequence in a stage: image tokens, most merged first, then latent levels."""
        return [*(h * w for h, w in reversed(self.grids[: stage + 1])), *self.scales]

    def _mask(self, stage: int) -> Tensor:
        """What latents see in a stage: (N, L)."""
        return block_causal(self._sizes(stage))[-self.num_tokens :]

    def _table(self, stage: int, head_dim: int, theta: float) -> Tensor:
        """Rotary table of a stage; every grid counts on from the number of tokens before it."""
        positions, start = [], 0
        for h, w in reversed(self.grids[: stage + 1]):
            positions.append(grid_positions(h, w, start))
            start += h * w
        return rotary_table(torch.cat([*positions, line_positions(self.num_tokens, start)]), head_dim, theta)


def input_scale(through_pixels: bool) -> Tensor:
    """(2, 3, 1, 1): factor and offset that take [-1, 1] to what the reference feeds its first layer.

    That is ImageNet's mean 0 and variance 1; `MaskGITEncoder` halves its input and adds a half, which is undone here.
    """
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    scale, shift = 0.5 / std, (0.5 - mean) / std
    if through_pixels:
        scale, shift = 2 * scale, 2 * shift - 1
    return torch.stack([scale, shift]).float()[..., None, None]
