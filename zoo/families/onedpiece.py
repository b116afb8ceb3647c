"""One-D-Piece: 1D image tokens whose prefixes decode on their own (arXiv 2501.10064)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zoo.families.titok import TiTok
from zoo.spec import Order

__all__ = ["OneDPiece"]


class OneDPiece(TiTok):
    """TiTok trained with tail token drop: the first tokens carry the most, and any prefix decodes."""

    order: ClassVar[Order] = "coarse_to_fine"
    flexible: ClassVar[bool] = True

    def regularize(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tail token drop: cut the batch to its first k tokens, k uniform in 1..N, drawn once a call.

        Args:
            latents: (B, N, D).

        Returns:
            latents (B, k, D) and lengths (B,), all k.
        """
        keep = int(torch.randint(1, latents.shape[1] + 1, ()))
        return latents[:, :keep], torch.full((len(latents),), keep, device=latents.device)
