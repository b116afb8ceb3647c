"""The decoder of TiTok: mask tokens read a 1D code and become patches (arXiv 2406.07550, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from decoders.maskgit_vqgan import MaskGITDecoder
from encoders.layers.attention import Transformer, embedding, init_weights
from encoders.layers.text import TextRows, append_text

__all__ = ["ProxyDecoder", "ViT1DDecoder"]


class ViT1DDecoder(nn.Module):
    """A 1D code to an image, or to logits over the codes of a 2D tokenizer.

    Args:
        image_size: side of the square output, pixels; a multiple of `patch_size`.
        patch_size: side of the patch that one mask token stands for, pixels.
        width, depth, heads: of the transformer, as in `encoders.ViT1D`.
        num_tokens: longest code it reads.
        dim: width of one latent.
        proxy_codes: None predicts pixels; K predicts logits over K proxy codes instead (TiTok's first stage).
        text_dim: width of text features that stand behind the code in the sequence (TA-TiTok, arXiv 2501.07730); None
            for a decoder that reads no text.
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
        proxy_codes: int | None = None,
        text_dim: int | None = None,
        text_length: int = 77,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}")
        self.image_size, self.patch_size = image_size, patch_size
        self.num_tokens, self.dim, self.proxy_codes = num_tokens, dim, proxy_codes
        self.grid = image_size // patch_size
        self.latent_embedding = nn.Linear(dim, width)
        self.class_embedding = embedding(1, width)
        self.mask_token = embedding(1, width)
        self.position_embedding = embedding(1 + self.grid**2, width)
        self.latent_position_embedding = embedding(num_tokens, width)
        self.text_rows = None if text_dim is None else TextRows(text_dim, text_length, width)
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = Transformer(width, depth, heads)
        self.norm_post = nn.LayerNorm(width)
        if proxy_codes is None:
            self.head: nn.Module = nn.Linear(width, 3 * patch_size**2)
            self.smooth = nn.Conv2d(3, 3, 3, padding=1)
        else:
            self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, proxy_codes))
        self.apply(init_weights)
        self.features = {str(number): width for number in range(1, depth + 1)}  # what `watch` is called with

    def forward(
        self,
        latents: Tensor,
        lengths: Tensor | None = None,
        watch: Callable[[str, Tensor], None] | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """Decode.

        Args:
            latents: (B, n, dim), 1 <= n <= num_tokens: a prefix of the code.
            lengths: (B,) int64 in [1, n]; later positions of an item are left out, as if it were cut there.
            watch: called with "1", "2", ... and the patches (B, width, grid, grid) after so many blocks.
            text: (B, L, text_dim) features, L <= text_length, for a decoder with `text_dim`.

        Returns:
            (B, 3, image_size, image_size) pixels, meant for [-1, 1] and not clamped, or logits
            (B, proxy_codes, grid, grid).

        Raises:
            ValueError: another shape, more tokens than `num_tokens`, or a text is missing or too much.
        """
        if latents.ndim != 3 or latents.shape[2] != self.dim or not 1 <= latents.shape[1] <= self.num_tokens:
            raise ValueError(
                f"ViT1DDecoder expects latents (B, 1 to {self.num_tokens}, {self.dim}), got {tuple(latents.shape)}"
            )
        latents = latents.to(self.position_embedding.dtype)
        count, patches = latents.shape[1], self.grid**2
        batch = (len(latents), -1, -1)
        mask = None
        if lengths is not None:
            keep = torch.arange(count, device=latents.device) < lengths[:, None]
            latents = torch.where(keep[..., None], latents, 0)  # what is left out may hold anything, NaN too
            mask = F.pad(keep, (1 + patches, 0 if text is None else text.shape[1]), value=True)[:, None, None]
        queries = torch.cat([self.class_embedding, self.mask_token.expand(patches, -1)]) + self.position_embedding
        code = self.latent_embedding(latents) + self.latent_position_embedding[:count]
        sequence = append_text(torch.cat([queries.to(code.dtype).expand(batch), code], dim=1), self.text_rows, text)

        def patches_after(number: int, rows: Tensor) -> None:
            assert watch is not None
            watch(str(number), rearrange(rows, "b (h w) c -> b c h w", h=self.grid))

        def rows_after(number: int, rows: Tensor) -> None:
            patches_after(number, rows[:, 1 : 1 + patches])

        inner = rows_after if watch is not None else None
        out = self.blocks(self.norm_pre(sequence), rows=slice(1, 1 + patches), mask=mask, watch=inner)
        if watch is not None:
            patches_after(len(self.blocks), out)
        out = self.head(self.norm_post(out))
        if self.proxy_codes is not None:
            return rearrange(out, "b (h w) k -> b k h w", h=self.grid)
        image = rearrange(out, "b (h w) (p q c) -> b c (h p) (w q)", h=self.grid, p=self.patch_size, q=self.patch_size)
        return self.smooth(image) * 2 - 1


class ProxyDecoder(nn.Module):
    """TiTok's second stage: soft proxy codes from a ViT, pixels from the decoder of the 2D tokenizer they belong to.

    Args:
        logits: a `ViT1DDecoder` with `proxy_codes=K`, or another part that predicts codes, such as `SlotDecoder`.
        pixels: decoder of the 2D tokenizer, D wide.
    """

    def __init__(self, logits: ViT1DDecoder, pixels: MaskGITDecoder) -> None:
        super().__init__()
        if logits.proxy_codes is None:
            raise ValueError("ProxyDecoder needs a ViT1DDecoder that predicts codes; set its proxy_codes")
        self.logits, self.pixels = logits, pixels
        self.dim, self.num_tokens, self.proxy_codes = logits.dim, logits.num_tokens, logits.proxy_codes
        self.features = logits.features
        self.codebook = nn.Parameter(torch.empty(logits.proxy_codes, pixels.dim))
        nn.init.uniform_(self.codebook, -1 / logits.proxy_codes, 1 / logits.proxy_codes)

    def forward(self, latents: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, n, dim) and lengths as in `ViT1DDecoder` -> (B, 3, H, W), meant for [-1, 1] and not clamped."""
        return self.render(self.logits(latents, lengths))

    def render(self, logits: Tensor) -> Tensor:
        """Logits (B, K, h, w) -> pixels (B, 3, H, W): each position is the expected code under its softmax."""
        weights = rearrange(logits.float().softmax(dim=1), "b k h w -> b (h w) k")
        codes = weights.to(logits.dtype) @ self.codebook
        return self.pixels(codes, (logits.shape[2], logits.shape[3]))
