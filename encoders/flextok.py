"""The encoder of FlexTok: registers read a map of latents, each one after those before it (arXiv 2502.13967)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import embedding, init_weights
from encoders.layers.pyramid import gather_levels, levels_within, token_gains
from encoders.layers.qknorm import QKNormAttention, plain_norm
from encoders.layers.sincos import sincos_2d
from encoders.layers.swiglu import SwiGLU

__all__ = ["FlexTokEncoder"]


class RegisterBlock(nn.Module):
    """Pre-norm attention and SwiGLU: patches see patches, registers see patches and the registers up to themselves."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.attn = QKNormAttention(width, head_dim)
        self.mlp = SwiGLU(width)

    def forward(self, x: Tensor, patches: int, mask: Tensor, last: bool) -> Tensor:
        """(B, P + N, W) -> the same shape, or in the `last` block (B, N, W), the registers alone.

        Args:
            patches: P.
            mask: (N, P + N) bool, what each register sees.
        """
        q, k, v = self.attn.project(plain_norm(x))
        out = self.attn.attend(q[:, :, patches:], k, v, mask)
        if last:
            x = x[:, patches:]
        else:
            seen = slice(patches)
            out = torch.cat([self.attn.attend(q[:, :, seen], k[:, :, seen], v[:, :, seen]), out], dim=1)
        x = x + self.attn.proj(out)
        return x + self.mlp(plain_norm(x))


class FlexTokEncoder(nn.Module):
    """A map of latents (or an image) to an ordered 1D code: N learned registers attend to its patches.

    Patches never see registers, and a register sees only those before it, so the first k tokens do not depend on how
    many follow.

    Args:
        channels: of the input map: latents of a VAE, or 3 for images.
        grid: largest (height, width) of the input in patches; smaller inputs use the table's upper left corner.
        patch_size: side of a patch in cells of the input.
        width, depth: of the transformer.
        num_tokens: N.
        dim: D, width of an output latent.
        head_dim: channels of an attention head.
        levels: (h, w) grids of N tokens in all, coarse to fine, each dividing `grid`, for maps of that size alone. A
            register then starts as the mean of the patches in its cell, less what coarser levels say, and a linear map
            of that is added to its latent: an order that small models need not discover. None is the published way.
        gains: what that is multiplied with at the start, for each level: finer levels have less to say, and a quantizer
            has steps. None for 1.

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
        levels: Sequence[Sequence[int]] | None = None,
        gains: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if depth < 1 or num_tokens < 1:
            raise ValueError(f"depth and num_tokens must be at least 1, got {depth} and {num_tokens}")
        self.channels, self.patch_size, self.grid = channels, patch_size, (int(grid[0]), int(grid[1]))
        self.num_tokens, self.dim = num_tokens, dim
        self.levels = None if levels is None else levels_within(levels, self.grid, num_tokens)
        self.patch_embedding = nn.Linear(channels * patch_size**2, width)
        self.position_embedding = nn.Parameter(sincos_2d(*self.grid, width), requires_grad=False)
        self.registers = embedding(num_tokens, width)
        self.blocks = nn.ModuleList(RegisterBlock(width, head_dim) for _ in range(depth))
        self.proj = nn.Linear(width, dim)
        self.apply(init_weights)
        if self.levels is not None:
            nn.init.zeros_(self.proj.weight)
            self.shortcut = nn.Linear(channels * patch_size**2, dim, bias=False)
            self.gain = token_gains(self.levels, gains, dim)
            start = torch.eye(dim, channels).repeat(1, patch_size**2)
            self.shortcut.weight = nn.Parameter(start / (2 * patch_size**2))  # half a channel's mean over the patch

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w), sides whole patches and at most `grid` of them -> (B, num_tokens, dim).

        Raises:
            ValueError: another shape.
        """
        size = self.patch_size
        rows, columns = x.shape[-2] // size, x.shape[-1] // size
        whole = x.ndim == 4 and x.shape[1] == self.channels and x.shape[2:] == (rows * size, columns * size)
        fits = 1 <= rows <= self.grid[0] and 1 <= columns <= self.grid[1]
        if not whole or not fits or (self.levels is not None and (rows, columns) != self.grid):
            raise ValueError(
                f"FlexTokEncoder expects (B, {self.channels}, h, w) with sides that are multiples of {size}, at most "
                f"{self.grid[0] * size} x {self.grid[1] * size}, got {tuple(x.shape)}"
            )
        cells = rearrange(x, "b c (h p) (w q) -> b (p q c) h w", p=size, q=size)
        positions = self.position_embedding[:rows, :columns].flatten(0, 1)
        patches = self.patch_embedding(cells.flatten(2).mT.to(positions.dtype)) + positions
        registers = self.registers.to(patches.dtype).expand(len(x), -1, -1)
        pooled = None if self.levels is None else gather_levels(cells, self.levels).to(positions.dtype)
        if pooled is not None:
            registers = registers + self.patch_embedding(pooled)
        mask = causal_last(rows * columns, self.num_tokens, x.device)
        sequence = torch.cat([patches, registers], dim=1)
        for number, block in enumerate(self.blocks):
            sequence = block(sequence, rows * columns, mask, number == len(self.blocks) - 1)
        latents = self.proj(plain_norm(sequence))
        return latents if pooled is None else latents + self.shortcut(pooled) * self.gain


def causal_last(patches: int, registers: int, device: torch.device) -> Tensor:
    """(N, P + N) bool: register n sees all P patches and the registers 0 to n."""
    causal = torch.ones(registers, registers, dtype=torch.bool, device=device).tril()
    return F.pad(causal, (patches, 0), value=True)
