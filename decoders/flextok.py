"""The decoder of FlexTok: a flow transformer that reads registers beside noised patches (arXiv 2502.13967)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.adaln import Modulation, TimeEmbedding, modulate
from encoders.layers.attention import embedding, init_weights
from encoders.layers.pyramid import levels_within, spread_levels, token_gains
from encoders.layers.qknorm import QKNormAttention
from encoders.layers.sincos import sincos_2d
from encoders.layers.swiglu import SwiGLU

__all__ = ["FlexTokDecoder", "Registers"]


class Registers(NamedTuple):
    """What a network call is conditioned on; independent of time and noise.

    Attributes:
        tokens: (B, R, W).
        bias: (B, R) float32 that is added to what attention finds for each row, or None: the logarithm of how many
            equal registers the row stands for, -inf for a row that is not there.
        layout: (B, P, dim), of a decoder with levels: the sum of the latents whose cells cover a patch; or None.
    """

    tokens: Tensor
    bias: Tensor | None = None
    layout: Tensor | None = None


class Part(NamedTuple):
    """Rows [start, stop) of a sequence; `kind` is 0 for patches and -1 for registers."""

    start: int
    stop: int
    kind: int


class FlowBlock(nn.Module):
    """Attention and SwiGLU, with shifts, scales and gates that depend on time and on the kind of a row.

    Args:
        width, head_dim: of the attention.
        kinds: 2 modulates patches and registers apart, 1 alike.
    """

    def __init__(self, width: int, head_dim: int, kinds: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6, kinds)
        self.attn = QKNormAttention(width, head_dim)
        self.mlp = SwiGLU(width)

    def forward(
        self, x: Tensor, modulation: Tensor, parts: Sequence[Part], masks: Sequence[Tensor | None], last: bool
    ) -> Tensor:
        """(B, L, W) -> the same shape, or only the patches after the `last` block: nobody reads its registers.

        Args:
            x: one or more streams of patches and registers; each row sees its own stream.
            modulation: (B or 1, kinds, 6, W): gates of attention and MLP, shift and scale of attention, then of MLP.
            parts: patches and registers of each stream.
            masks: of each stream, added to its attention products; or None.
        """
        gate1, gate2, shift1, scale1, shift2, scale2 = modulation.unbind(2)
        q, k, v = self.attn.project(_modulated(x, shift1, scale1, parts))
        seen = []
        for patches, registers, mask in zip(parts[::2], parts[1::2], masks, strict=True):
            rows = slice(patches.start, registers.stop)
            asking = slice(patches.start, patches.stop if last else registers.stop)
            seen.append(self.attn.attend(q[:, :, asking], k[:, :, rows], v[:, :, rows], mask))
        if last:
            x, parts = _patches(x, parts)
        x = x + _gated(self.attn.proj(torch.cat(seen, dim=1)), gate1, parts)
        return x + _gated(self.mlp(_modulated(x, shift2, scale2, parts)), gate2, parts)


class FlexTokDecoder(nn.Module):
    """Velocity of a noised map of latents (or image), given an ordered 1D code of any length.

    Patches and registers attend to each other. The last positions of a shortened code are all replaced by one learned
    mask token, and without condition the whole code is by one learned null token, both after positions were added.
    Equal registers stay equal through all blocks, so `registers` and `null` stand for them by a single row whose
    attention weight is multiplied: short codes and the unconditional half of guidance cost half as much, with the same
    result.

    Everything that time does not change is in `registers` and `null`, and everything that noise does not change is in
    `modulations`; a sampler computes them once. Modulations start small but not at zero (adaLN-zero): a fresh decoder
    already reads its code.

    Args:
        channels: of the map.
        grid: largest (height, width) of the map in patches; smaller maps use the table's upper left corner.
        patch_size: side of a patch in cells of the map.
        width, depth: of the transformer.
        num_tokens: N, length of the full code.
        dim: width of one latent of the code.
        head_dim: channels of an attention head.
        modulations: 2 for modulations of their own for patches and registers, 1 for shared ones.
        time_features, max_timestep, max_period: of the time embedding.
        levels, gains: as in `encoders.FlexTokEncoder`, for small models; None is the published way. Latents, divided by
            the gains, are added up over the patches of their cells; what is left out adds nothing. A linear map of
            that sum joins the patches, and another is a sketch m of the clean map. The network then says what is
            missing from the velocity that is best if the map is m and normal noise of standard deviation `spread`.
        spread: see above.

    Raises:
        ValueError: a size that is not positive, or levels of another number of tokens.
    """

    def __init__(
        self,
        *,
        channels: int,
        grid: tuple[int, int],
        width: int,
        depth: int,
        num_tokens: int,
        dim: int,
        patch_size: int = 2,
        head_dim: int = 64,
        modulations: int = 2,
        time_features: int = 256,
        max_timestep: float = 1000.0,
        max_period: float = 256,
        levels: Sequence[Sequence[int]] | None = None,
        gains: Sequence[float] | None = None,
        spread: float = 0.7,
    ) -> None:
        super().__init__()
        if depth < 1 or num_tokens < 1:
            raise ValueError(f"depth and num_tokens must be at least 1, got {depth} and {num_tokens}")
        self.channels, self.patch_size, self.grid = channels, patch_size, (int(grid[0]), int(grid[1]))
        self.num_tokens, self.dim = num_tokens, dim
        self.levels = None if levels is None else levels_within(levels, self.grid, num_tokens)
        self.latent_embedding = nn.Linear(dim, width)
        self.latent_position_embedding = embedding(num_tokens, width)
        self.mask_token = embedding(1, width)
        self.null_embedding = embedding(1, width)
        self.patch_embedding = nn.Linear(channels * patch_size**2, width)
        self.position_embedding = nn.Parameter(sincos_2d(*self.grid, width), requires_grad=False)
        self.time_embedding = TimeEmbedding(width, time_features, max_timestep, max_period)
        self.blocks = nn.ModuleList(FlowBlock(width, head_dim, modulations) for _ in range(depth))
        self.modulation = Modulation(width, 2)
        self.proj = nn.Linear(width, channels * patch_size**2)
        if self.levels is not None:
            self.gain = token_gains(self.levels, gains, dim, inverse=True)
            self.layout_embedding = nn.Linear(dim, width, bias=False)
            self.sketch = nn.Linear(dim, channels * patch_size**2, bias=False)
        self.apply(init_weights)
        self.spread = spread
        if self.levels is not None:
            nn.init.zeros_(self.proj.weight)
            self.sketch.weight = nn.Parameter(2 * torch.eye(channels, dim).repeat(patch_size**2, 1))
        self.features = {str(number): width for number in range(1, depth + 1)}  # what `watch` is called with

    def registers(self, latents: Tensor, lengths: Tensor | None = None) -> Registers:
        """The code as registers, for decoding.

        Args:
            latents: (B, n, dim), 1 <= n <= num_tokens: a prefix of the code.
            lengths: (B,) int64 in [1, n]; later positions of an item are left out and may hold anything.

        Raises:
            ValueError: another shape, or more tokens than `num_tokens`.
        """
        batch, count = self._check_latents(latents)
        if lengths is None:
            lengths = torch.full((batch,), count, device=latents.device)
        longest = int(lengths.max())
        keep = torch.arange(longest, device=latents.device) < lengths[:, None]
        latents = torch.where(keep[..., None], latents[:, :longest], 0)
        rows, layout = self._embed(latents), self._spread(latents)
        if int(lengths.min()) == self.num_tokens:
            return Registers(rows, layout=layout)
        left_out = (self.num_tokens - lengths).float().log()[:, None]
        bias = torch.cat([torch.zeros(keep.shape, device=keep.device).masked_fill(~keep, -math.inf), left_out], dim=1)
        return Registers(torch.cat([rows, self.mask_token.to(rows.dtype).expand(batch, 1, -1)], dim=1), bias, layout)

    def null(self, batch: int) -> Registers:
        """No condition, for a batch of that size."""
        bias = torch.full((batch, 1), math.log(self.num_tokens), device=self.null_embedding.device)
        return Registers(self.null_embedding.expand(batch, 1, -1), bias)

    def training_registers(
        self, latents: Tensor, lengths: Tensor | None = None, dropped: Tensor | None = None
    ) -> Registers:
        """As `registers`, in a shape that does not depend on the lengths.

        Args:
            latents: (B, n, dim).
            lengths: (B,) int64 in [1, n], or None for all.
            dropped: (B,) bool, True where an item loses its condition; None for nowhere.
        """
        _, count = self._check_latents(latents)
        rows = F.pad(self._embed(latents), (0, 0, 0, self.num_tokens - count))
        limit = count if lengths is None else lengths[:, None]
        keep = torch.arange(self.num_tokens, device=rows.device) < limit
        rows = torch.where(keep[..., None], rows, self.mask_token.to(rows.dtype))
        if dropped is not None:
            rows = torch.where(dropped[:, None, None], self.null_embedding.to(rows.dtype), rows)
            keep = keep & ~dropped[:, None]
        return Registers(rows, layout=self._spread(torch.where(keep[..., :count, None], latents, 0)))

    def modulations(self, times: Tensor) -> list[Tensor]:
        """What times (T,) in [0, 1] do: (T, kinds, 6, W) for each block, (T, 1, 2, W) for the head, and the times."""
        vector = self.time_embedding(times)
        blocks = [cast(FlowBlock, block).modulation(vector) for block in self.blocks]
        return [*blocks, self.modulation(vector), times.float()]

    def forward(
        self,
        noised: Tensor,
        modulations: Sequence[Tensor],
        *streams: Registers,
        watch: Callable[[str, Tensor], None] | None = None,
    ) -> tuple[Tensor, ...]:
        """Network outputs for one or more conditions in one pass.

        Args:
            noised: (B, channels, h, w), sides whole patches and at most `grid` of them.
            modulations: of B times, or of 1 time for all.
            streams: conditions; attention stays inside a stream, all else is shared.
            watch: called with "1", "2", ... and the first stream's patches (B, width, h, w) after so many blocks.

        Returns:
            (B, channels, h, w) for each stream.

        Raises:
            ValueError: another shape.
        """
        rows, columns = self._check_noised(noised)
        count, size = rows * columns, self.patch_size
        cells = rearrange(noised, "b c (h p) (w q) -> b (h w) (p q c)", p=size, q=size)
        positions = self.position_embedding[:rows, :columns].flatten(0, 1)
        patches = self.patch_embedding(cells.to(positions.dtype)) + positions
        pairs = [(self._placed(patches, stream), stream.tokens.to(patches.dtype)) for stream in streams]
        x = torch.cat([rows for pair in pairs for rows in pair], dim=1)
        parts, masks = _layout(count, streams, patches.dtype)
        for number, block in enumerate(self.blocks):
            x = block(x, modulations[number], parts, masks, number == len(self.blocks) - 1)
            if watch is not None:
                watch(str(number + 1), rearrange(x[:, :count], "b (h w) c -> b c h w", h=rows))
        shift, scale = modulations[-2][:, 0].unbind(1)
        out = self.proj(modulate(x, shift, scale))
        if self.levels is not None:
            guesses = [self._guess(cells, stream, modulations[-1]) for stream in streams]
            out = out.float() + torch.cat(guesses, dim=1)
        maps = rearrange(out, "b (s h w) (p q c) -> s b c (h p) (w q)", h=rows, w=columns, p=size, q=size)
        return maps.unbind(0)

    def _embed(self, latents: Tensor) -> Tensor:
        """(B, n, dim) -> (B, n, W) with positions."""
        positions = self.latent_position_embedding[: latents.shape[1]]
        return self.latent_embedding(latents.to(positions.dtype)) + positions

    def _spread(self, latents: Tensor) -> Tensor | None:
        """(B, n, dim) with zeros where tokens are left out -> (B, P, dim), or None without levels."""
        if self.levels is None:
            return None
        return spread_levels(latents * self.gain[: latents.shape[1]], [*self.levels, self.grid]).flatten(2).mT

    def _placed(self, patches: Tensor, stream: Registers) -> Tensor:
        """Patches (B, P, W) with what a stream knows of their places."""
        if stream.layout is None:
            return patches
        return patches + self.layout_embedding(stream.layout.to(patches.dtype))

    def _guess(self, cells: Tensor, stream: Registers, times: Tensor) -> Tensor:
        """The velocity (B, P, C) that patches of noised maps (B, P, C) and the sketch m alone suggest, float32.

        The mean of noise - clean, given (1 - t) clean + t noise and clean ~ N(m, spread^2), is g (noised - (1 - t) m) -
        m with g = (t - (1 - t) spread^2) / ((1 - t)^2 spread^2 + t^2), as the preconditioning of arXiv 2206.00364.
        """
        t, variance = times.reshape(-1, 1, 1), self.spread**2
        gain = (t - (1 - t) * variance) / ((1 - t).square() * variance + t.square())
        if stream.layout is None:
            return gain * cells.float()
        sketch = self.sketch(stream.layout.to(self.sketch.weight.dtype)).float()
        return gain * (cells.float() - (1 - t) * sketch) - sketch

    def _check_latents(self, latents: Tensor) -> tuple[int, int]:
        if latents.ndim != 3 or latents.shape[2] != self.dim or not 1 <= latents.shape[1] <= self.num_tokens:
            raise ValueError(
                f"FlexTokDecoder expects latents (B, 1 to {self.num_tokens}, {self.dim}), got {tuple(latents.shape)}"
            )
        return latents.shape[0], latents.shape[1]

    def _check_noised(self, noised: Tensor) -> tuple[int, int]:
        size = self.patch_size
        rows, columns = noised.shape[-2] // size, noised.shape[-1] // size
        whole = noised.ndim == 4 and noised.shape[1:] == (self.channels, rows * size, columns * size)
        fits = 1 <= rows <= self.grid[0] and 1 <= columns <= self.grid[1]
        if not whole or not fits or (self.levels is not None and (rows, columns) != self.grid):
            raise ValueError(
                f"FlexTokDecoder expects (B, {self.channels}, h, w) with sides that are multiples of {size}, at most "
                f"{self.grid[0] * size} x {self.grid[1] * size}, got {tuple(noised.shape)}"
            )
        return rows, columns


def _layout(count: int, streams: Sequence[Registers], dtype: torch.dtype) -> tuple[list[Part], list[Tensor | None]]:
    """Parts and attention masks of a sequence of streams, each `count` patches and its registers."""
    parts: list[Part] = []
    masks: list[Tensor | None] = []
    start = 0
    for stream in streams:
        middle, stop = start + count, start + count + stream.tokens.shape[1]
        parts += [Part(start, middle, 0), Part(middle, stop, -1)]
        masks.append(None if stream.bias is None else F.pad(stream.bias, (count, 0))[:, None, None].to(dtype))
        start = stop
    return parts, masks


def _patches(x: Tensor, parts: Sequence[Part]) -> tuple[Tensor, list[Part]]:
    """The rows of patches alone, and where they are then."""
    kept = [part for part in parts if part.kind == 0]
    count = kept[0].stop - kept[0].start
    rows = torch.cat([x[:, part.start : part.stop] for part in kept], dim=1)
    return rows, [Part(number * count, (number + 1) * count, 0) for number in range(len(kept))]


def _modulated(x: Tensor, shift: Tensor, scale: Tensor, parts: Sequence[Part]) -> Tensor:
    """`modulate` with shift and scale (B or 1, kinds, W) of each part."""
    done = [modulate(x[:, part.start : part.stop], shift[:, part.kind], scale[:, part.kind]) for part in parts]
    return torch.cat(done, dim=1)


def _gated(x: Tensor, gate: Tensor, parts: Sequence[Part]) -> Tensor:
    """x times the gate (B or 1, kinds, W) of each part."""
    return torch.cat([x[:, part.start : part.stop] * gate[:, part.kind][:, None] for part in parts], dim=1)
