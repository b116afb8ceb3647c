"""The encoder of FlexTok: registers read a map of latents, each one after those before it (arXiv 2502.13967)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import embedding, init_weights
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
    ) -> None:
        super().__init__()
        if depth < 1 or num_tokens < 1:
            raise ValueError(f"depth and num_tokens must be at least 1, got {depth} and {num_tokens}")
        self.channels, self.patch_size, self.grid = channels, patch_size, (int(grid[0]), int(grid[1]))
        self.num_tokens, self.dim = num_tokens, dim
        self.patch_embedding = nn.Linear(channels * patch_size**2, width)
        self.position_embedding = nn.Parameter(sincos_2d(*self.grid, width), requires_grad=False)
        self.registers = embedding(num_tokens, width)
        self.blocks = nn.ModuleList(RegisterBlock(width, head_dim) for _ in range(depth))
        self.proj = nn.Linear(width, dim)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w), sides whole patches and at most `grid` of them -> (B, num_tokens, dim).

        Raises:
            ValueError: another shape.
        """
        size = self.patch_size
        rows, columns = x.shape[-2] // size, x.shape[-1] // size
        whole = x.ndim == 4 and x.shape[1] == self.channels and x.shape[2:] == (rows * size, columns * size)
        if not whole or not 1 <= rows <= self.grid[0] or not 1 <= columns <= self.grid[1]:
            raise ValueError(
                f"FlexTokEncoder expects (B, {self.channels}, h, w) with sides that are multiples of {size}, at most "
                f"{self.grid[0] * size} x {self.grid[1] * size}, got {tuple(x.shape)}"
            )
        patches = rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=size, q=size)
        positions = self.position_embedding[:rows, :columns].flatten(0, 1)
        patches = self.patch_embedding(patches.to(positions.dtype)) + positions
        registers = self.registers.to(patches.dtype).expand(len(x), -1, -1)
        mask = causal_last(rows * columns, self.num_tokens, x.device)
        sequence = torch.cat([patches, registers], dim=1)
        for number, block in enumerate(self.blocks):
            sequence = block(sequence, rows * columns, mask, number == len(self.blocks) - 1)
        return self.proj(plain_norm(sequence))


def causal_last(patches: int, registers: int, device: torch.device) -> Tensor:
    """(N, P + N) bool: register n sees all P patches and the registers 0 to n."""
    causal = torch.ones(registers, registers, dtype=torch.bool, device=device).tril()
    return F.pad(causal, (patches, 0), value=True)
