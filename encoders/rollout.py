"""The encoder of ALIT: roll-outs of one transformer, each of which adds tokens to the code (arXiv 2411.02393)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.attention import Transformer, embedding, init_weights
from encoders.layers.guided import GuidedPatches, check_square

__all__ = ["RolloutViT1D"]


class RolloutViT1D(nn.Module):
    """Image to a 1D code of 1 to R steps of tokens.

    A ViT reads [class, patches, tokens] and writes them back; then `step` fresh tokens join, and the same ViT reads
    again. So all tokens change with each roll-out, and a code of two steps is not the first part of a code of three.

    `forward` runs everything; `begin`, `process`, `read`, `forget`, `extend` and `finish` are its parts, for callers
    that look at the code between roll-outs. In these a sequence is (B, 1 + h * w + n, width).

    Args:
        image_size: side of the square input, pixels; a multiple of `patch_size`.
        patch_size: side of a patch, pixels.
        width, depth, heads: of the transformer.
        num_tokens: tokens after the last roll-out, a multiple of `step`.
        step: tokens that a roll-out adds.
        dim: width of one output latent.
        base: encoder of the grid tokenizer whose latents accompany the patches, with `dim` and `downsample`.
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
        step: int,
        dim: int,
        base: nn.Module,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}")
        if step < 1 or num_tokens % step or num_tokens < step:
            raise ValueError(f"num_tokens must be a multiple of step, got {num_tokens} and {step}")
        self.image_size, self.num_tokens, self.step, self.dim = image_size, num_tokens, step, dim
        self.num_patches = (image_size // patch_size) ** 2
        self.class_embedding = embedding(1, width)
        self.position_embedding = embedding(1 + self.num_patches, width)
        self.mask_token = embedding(1, width)
        self.latent_tokens = embedding(step, width)
        self.latent_position_embedding = embedding(step, width)
        self.step_embedding = nn.Parameter(torch.randn(num_tokens // step, step, width) * width**-0.5)
        self.norm_pre = nn.LayerNorm(width)
        self.norm_between = nn.LayerNorm(width)
        self.blocks = Transformer(width, depth, heads)
        self.norm_post = nn.LayerNorm(width)
        self.proj = nn.Linear(width, dim)
        self.apply(init_weights)
        self.patches = GuidedPatches(base, patch_size=patch_size, width=width, base_first=True)
        init_weights(self.patches.embedding)

    def forward(self, x: Tensor, tokens: int | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, 3, image_size, image_size), in [-1, 1].
            tokens: length of the code, a multiple of `step`; None for `num_tokens`.

        Returns:
            (B, tokens, dim).

        Raises:
            ValueError: another shape, or a length that no roll-out ends at.
        """
        rollouts = self.rollouts(self.num_tokens if tokens is None else tokens)
        sequence, _ = self.begin(x)
        for number in range(1, rollouts):
            sequence = self.extend(self.process(sequence), number)
        return self.finish(sequence)

    def rollouts(self, tokens: int) -> int:
        """How many roll-outs make a code of that length.

        Raises:
            ValueError: no number does.
        """
        if tokens % self.step or not self.step <= tokens <= self.num_tokens:
            raise ValueError(f"tokens must be a multiple of {self.step} up to {self.num_tokens}, got {tokens}")
        return tokens // self.step

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sequence before the first roll-out, and the latents of the base encoder (B, h * w, base.dim)."""
        check_square(x, self.image_size, type(self).__name__)
        patches, base = self.patches(x)
        first = self.class_embedding.expand(len(x), -1, -1)
        seen = torch.cat([first, F.normalize(patches, dim=-1)], dim=1) + self.position_embedding
        return self.norm_pre(torch.cat([seen, self._fresh(0).expand(len(x), -1, -1)], dim=1)), base

    def process(self, sequence: Tensor) -> Tensor:
        """One roll-out: the same transformer over the whole sequence."""
        return self.blocks(sequence, rows=slice(None))

    def read(self, sequence: Tensor) -> Tensor:
        """The latents (B, n, dim) in a processed sequence."""
        return self.proj(self.norm_post(sequence[:, 1 + self.num_patches :]))

    def finish(self, sequence: Tensor) -> Tensor:
        """As `read` of `process`, for the last roll-out: what nothing reads any more is not computed."""
        return self.proj(self.norm_post(self.blocks(sequence, rows=slice(1 + self.num_patches, None))))

    def forget(self, sequence: Tensor, done: Tensor) -> Tensor:
        """Put the mask token where a patch is `done`, (B, h * w) bool."""
        blank = (self.mask_token + self.position_embedding[1:]).to(sequence.dtype)
        patches = torch.where(done[..., None], blank, sequence[:, 1 : 1 + self.num_patches])
        return torch.cat([sequence[:, :1], patches, sequence[:, 1 + self.num_patches :]], dim=1)

    def extend(self, sequence: Tensor, number: int) -> Tensor:
        """Let the fresh tokens of roll-out `number`, counted from 0, join a processed sequence."""
        fresh = self._fresh(number).to(sequence.dtype).expand(len(sequence), -1, -1)
        return self.norm_between(torch.cat([sequence, fresh], dim=1))

    def _fresh(self, number: int) -> Tensor:
        return self.latent_tokens + self.latent_position_embedding + self.step_embedding[number]
