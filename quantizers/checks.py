"""Refusal of latents that are not finite: one NaN in a batch would spread to a whole codebook."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_finite"]


def check_finite(z: Tensor, name: str) -> Tensor:
    """Return z (B, N, D), all of it finite.

    Compiled and exported graphs check as well, by an assertion that does not tell the place.

    Raises:
        ValueError: a value is NaN or infinite; the message tells how many positions are concerned and the first.
    """
    if z.device.type == "meta":
        return z
    if torch.compiler.is_compiling():
        torch._assert_async(z.isfinite().all(), f"{name} expects finite latents, got NaN or infinity")
        return z
    # A sum is one cheap pass, and finite unless some element is not (or the sum overflows, which the full check tells).
    if not bool(z.detach().sum().isfinite()):
        bad = (~z.detach().isfinite()).nonzero()
        if len(bad):
            batch, position, channel = bad[0].tolist()
            positions = len(bad[:, :2].unique(dim=0))
            raise ValueError(
                f"{name} expects finite latents, got {z[batch, position, channel].item()} at batch {batch}, "
                f"position {position}, channel {channel} ({positions} of {z.shape[0] * z.shape[1]} positions are "
                "concerned); look for an overflow in the encoder or lower the learning rate"
            )
    return z
