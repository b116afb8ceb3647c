"""The encoder of TiTok: a ViT whose extra learned tokens become the code (arXiv 2406.07550, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from encoders.layers.attention import Transformer, embedding, init_weights
from encoders.layers.text import TextRows, append_text

__all__ = ["ViT1D"]


class ViT1D(nn.Module):
    """Image to a 1D code: patches and N learned latent tokens go through a ViT, the latent tokens come out.

    Args:
        image_size: side of the square input, pixels; a multiple of `patch_size`.
        patch_size: side of a patch, pixels.
        width, depth, heads: of the transformer. TiTok: small 512, 8, 8; base 768, 12, 12; large 1024, 24, 16.
        num_tokens: N.
        dim: width of one output latent; twice the latent width in front of a `KL` bottleneck.
        legacy_reshape: read the (N, width) result as (width, N) before the last projection, as TiTok-L-32, B-64 and
            S-128 and One-D-Piece were trained; wrong by intent of their authors, but part of their weights.
        text_dim: width of text features that stand behind the latent tokens in the sequence (TexTok, arXiv 2412.05796);
            None for an encoder that reads no text.
        text_length: most rows of text.
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
        legacy_reshape: bool = False,
        text_dim: int | None = None,
        text_length: int = 77,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}")
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
        self.image_size, self.patch_size = image_size, patch_size
        self.num_tokens, self.dim, self.legacy_reshape = num_tokens, dim, legacy_reshape
        self.num_patches = (image_size // patch_size) ** 2
        self.patch_embedding = nn.Linear(3 * patch_size**2, width)
        self.class_embedding = embedding(1, width)
        self.position_embedding = embedding(1 + self.num_patches, width)
        self.latent_tokens = embedding(num_tokens, width)
        self.latent_position_embedding = embedding(num_tokens, width)
        self.text_rows = None if text_dim is None else TextRows(text_dim, text_length, width)
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = Transformer(width, depth, heads)
        self.norm_post = nn.LayerNorm(width)
        self.proj = nn.Linear(width, dim)
        self.apply(init_weights)
        self.features = {str(number): width for number in range(1, depth)}  # what `watch` is called with

    def forward(
        self, x: Tensor, watch: Callable[[str, Tensor], None] | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Encode.

        Args:
            x: (B, 3, image_size, image_size), in [-1, 1].
            watch: called with "1", "2", ... and the patches (B, width, h, w) after so many blocks; not after the last,
                which computes the code alone.
            text: (B, L, text_dim) features, L <= text_length, for an encoder with `text_dim`.

        Returns:
            (B, num_tokens, dim).

        Raises:
            ValueError: another shape, or a text is missing or too much.
        """
        if x.ndim != 4 or x.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"ViT1D expects images (B, 3, {self.image_size}, {self.image_size}), got {tuple(x.shape)}; "
                "resize or crop them"
            )
        x = (x.to(self.position_embedding.dtype) + 1) * 0.5
        patches = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_size, q=self.patch_size)
        patches = self.patch_embedding(patches) + self.position_embedding[1:]
        first = self.class_embedding + self.position_embedding[:1]
        latents = self.latent_tokens + self.latent_position_embedding
        batch = (len(x), -1, -1)
        sequence = torch.cat([first.expand(batch), patches, latents.expand(batch)], dim=1)
        sequence = append_text(sequence, self.text_rows, text)

        def patches_after(number: int, rows: Tensor) -> None:
            assert watch is not None
            side = self.image_size // self.patch_size
            watch(str(number), rearrange(rows[:, 1 : 1 + self.num_patches], "b (h w) c -> b c h w", h=side))

        start = 1 + self.num_patches
        rows = slice(start, start + self.num_tokens)
        out = self.blocks(self.norm_pre(sequence), rows, watch=patches_after if watch is not None else None)
        out = self.norm_post(out)
        if self.legacy_reshape:
            out = out.reshape(len(x), out.shape[2], self.num_tokens).transpose(1, 2)
        return self.proj(out)
