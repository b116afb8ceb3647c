"""Patch transforms that start as a decorrelating basis instead of noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["init_patch_analysis", "init_patch_synthesis", "patch_basis"]


def patch_basis(patch: int) -> tuple[Tensor, Tensor]:
    """Orthonormal colour-DCT basis of a patch, strongest coefficients first, and a scale for each.

    Colour is rotated to (grey, red-green, yellow-blue); each plane is a two-dimensional DCT-II. In photographs the
    amplitude of a frequency falls about as its inverse (Field 1987), and chroma carries less than luma. The scale of
    the mean is kept below its true spread, and that of chroma above: fully whitened features make training unstable.

    Args:
        patch: side in pixels.

    Returns:
        basis (3 p p, 3, p, p) float32, rows orthonormal, and scale (3 p p,) float32: the amplitude of each coefficient
        that counts as one.
    """
    grid = torch.arange(patch, dtype=torch.float64)
    dct = torch.cos(math.pi / patch * (grid + 0.5) * grid[:, None]) * math.sqrt(2 / patch)
    dct[0] /= math.sqrt(2)
    colour = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
    colour /= colour.norm(dim=1, keepdim=True)
    basis = torch.einsum("kc,ui,vj->kuvcij", colour, dct, dct).reshape(3 * patch * patch, 3, patch, patch)
    frequency = torch.hypot(grid[:, None], grid).clamp_min(0.5)
    plane = torch.tensor([1.0, 0.35, 0.35], dtype=torch.float64)
    scale = (0.4 * math.sqrt(patch) * plane[:, None, None] / frequency).reshape(-1)
    order = scale.argsort(descending=True, stable=True)
    return basis[order].float(), scale[order].float()


@torch.no_grad()
def init_patch_analysis(conv: nn.Conv2d) -> None:
    """Set a stride-p patch convolution (3 -> W) to the first W whitened coefficients; further filters are zero."""
    basis, scale = patch_basis(conv.kernel_size[0])
    count = min(conv.out_channels, len(basis))
    conv.weight.zero_()
    conv.weight[:count] = basis[:count] / scale[:count, None, None, None]
    if conv.bias is not None:
        conv.bias.zero_()


@torch.no_grad()
def init_patch_synthesis(conv: nn.ConvTranspose2d) -> None:
    """Set a stride-p transposed patch convolution (W -> 3) to the inverse of `init_patch_analysis`."""
    basis, scale = patch_basis(conv.kernel_size[0])
    count = min(conv.in_channels, len(basis))
    conv.weight.zero_()
    conv.weight[:count] = basis[:count] * scale[:count, None, None, None]
    if conv.bias is not None:
        conv.bias.zero_()
