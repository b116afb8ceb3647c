"""The decoder of KARL: a ViT that reads tokens at any of their places, with gaps between them (arXiv 2507.07995)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import Transformer, embedding, init_weights
from encoders.layers.position_map import PositionMap

__all__ = ["SlotDecoder"]


class SlotDecoder(nn.Module):
    """A 1D code with gaps to logits over the codes of a grid tokenizer; for a `ProxyDecoder`.

    A token that an encoder left out is not in the sequence at all, which is the same as one that no other may see.

    Args:
        image_size: side of the square picture, pixels; a multiple of `patch_size`.
        patch_size: side of the patch that one mask token stands for, pixels.
        width, depth, heads: of the transformer.
        num_tokens: places a token may have.
        dim: width of one latent.
        proxy_codes: K, codes of the grid tokenizer.
        position_side: cells along each axis of the learned map of positions.
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
        proxy_codes: int,
        position_side: int = 64,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}")
        self.num_tokens, self.dim, self.proxy_codes = num_tokens, dim, proxy_codes
        self.grid = image_size // patch_size
        self.features: dict[str, int] = {}
        self.latent_embedding = nn.Linear(dim, width)
        self.mask_token = embedding(1, width)
        self.position_map = PositionMap(position_side, width)
        self.latent_position_embedding = embedding(num_tokens, width)
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = Transformer(width, depth, heads)
        self.norm_post = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, proxy_codes))
        self.apply(init_weights)

    def forward(self, latents: Tensor, lengths: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            latents: (B, n, dim), n up to `num_tokens`.
            lengths: (B,) int64 in [0, n]; later tokens of an item are left out.
            positions: (B, n) int64, the place of each token; None when the n-th has place n.

        Returns:
            Logits (B, proxy_codes, grid, grid).

        Raises:
            ValueError: another shape, or more tokens than places.
        """
        if latents.ndim != 3 or latents.shape[2] != self.dim or latents.shape[1] > self.num_tokens:
            raise ValueError(
                f"SlotDecoder expects latents (B, up to {self.num_tokens}, {self.dim}), got {tuple(latents.shape)}"
            )
        latents = latents.to(self.latent_position_embedding.dtype)
        count, patches = latents.shape[1], self.grid**2
        mask = None
        if lengths is not None:
            keep = torch.arange(count, device=latents.device) < lengths[:, None]
            latents = torch.where(keep[..., None], latents, 0)  # what is left out may hold anything, NaN too
            mask = F.pad(keep, (patches, 0), value=True)[:, None, None]
        table = self.latent_position_embedding
        code = self.latent_embedding(latents) + (table[:count] if positions is None else table[positions])
        queries = (self.mask_token + self.position_map((self.grid, self.grid))).to(code.dtype)
        sequence = torch.cat([queries.expand(len(latents), -1, -1), code], dim=1)
        out = self.head(self.norm_post(self.blocks(self.norm_pre(sequence), rows=slice(0, patches), mask=mask)))
        return rearrange(out, "b (h w) k -> b k h w", h=self.grid)
