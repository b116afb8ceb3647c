"""Gradient estimators through a non-differentiable choice of codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ESTIMATORS", "rotation_trick", "straight_through"]

ESTIMATORS = ("straight_through", "rotation", "none")

_EPS = 1e-6


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """Value of `codes`, gradient of the identity to `z` (arXiv 1308.3432).

    Written as q + (z - z): the bracket is exactly zero, so the forward value is bit-equal to the code, which
    z + (q - z) misses in a third of float32 elements. What gradient `codes` carry themselves stays.
    """
    return codes + (z - z.detach())


def rotation_trick(z: Tensor, codes: Tensor, max_scale: float = 10.0) -> Tensor:
    """Value of `codes`, gradient of the rotation and scaling that carries each z onto its code (arXiv 2410.06424).

    With unit vectors e of z and q of the code, r = (e + q) / |e + q| and s = |code| / |z| (Sec. 4.2):

        codes = s R z,    R = I - 2 r r^T + 2 q e^T,    gradient to z = s R^T g

    The forward value is the code itself, bit-equal. s is held below `max_scale`, or latents near zero would receive
    unbounded gradients; for antiparallel vectors, where r is undefined, R is the reflection I + 2 q e^T.

    Args:
        z: (..., D) latents.
        codes: (..., D) the chosen codes.
        max_scale: largest factor on the gradient.
    """
    with torch.no_grad():
        z_norm, code_norm = (v.norm(dim=-1, keepdim=True).clamp_min(_EPS) for v in (z, codes))
        scale = (code_norm / z_norm).clamp_max(max_scale)
        e, q = z / z_norm, codes / code_norm
        middle = e + q
        length = middle.norm(dim=-1, keepdim=True)
        r = torch.where(length > 1e-3, F.normalize(middle, dim=-1), 0.0)
    rotated = scale * (z - 2 * r * (r * z).sum(-1, keepdim=True) + 2 * q * (e * z).sum(-1, keepdim=True))
    return straight_through(rotated, codes)
