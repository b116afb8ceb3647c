"""Fidelity of images in [-1, 1], one number per image."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zoo.objectives.perceptual import LPIPS, Backbone

__all__ = ["bits_per_pixel", "lpips", "psnr", "ssim"]


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over a range of 2, after clamping `output` to [-1, 1] as a picture file would.

    Args:
        output: (B, C, H, W).
        target: (B, C, H, W) in [-1, 1].

    Returns:
        (B,) float32 in dB; infinite for equal images.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    output, target = _pair(output, target)
    return peak_signal_noise_ratio(output, target, data_range=2.0, reduction="none", dim=(1, 2, 3))


def ssim(output: Tensor, target: Tensor) -> Tensor:
    """Structural similarity with the 11 x 11 Gaussian window of sigma 1.5 (Wang et al. 2004), on RGB.

    Args:
        output: (B, C, H, W), clamped to [-1, 1]; sides of at least 11.
        target: (B, C, H, W) in [-1, 1].

    Returns:
        (B,) float32, 1 for equal images.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    output, target = _pair(output, target)
    if min(output.shape[2:]) < 11:
        raise ValueError(f"ssim needs sides of at least 11 pixels, got {tuple(output.shape[2:])}")
    value = structural_similarity_index_measure(output, target, data_range=2.0, reduction="none")
    if not isinstance(value, Tensor):
        raise TypeError(f"expected one tensor from torchmetrics, got {type(value).__name__}")
    return value.reshape(len(output))


@torch.no_grad()
def lpips(output: Tensor, target: Tensor, net: Backbone = "alex") -> Tensor:
    """Learned perceptual image patch similarity (arXiv 1801.03924); lower is better.

    Args:
        output: (B, 3, H, W), clamped to [-1, 1].
        target: (B, 3, H, W) in [-1, 1].
        net: "alex", as is usual for measuring, "vgg" or "squeeze".

    Returns:
        (B,) float32, 0 for equal images.

    Raises:
        RuntimeError: the backbone's ImageNet weights are not in torch's cache and cannot be downloaded.
    """
    output, target = _pair(output, target)
    return _judge(net).to(output.device).each(output, target)


@lru_cache(maxsize=3)
def _judge(net: Backbone) -> LPIPS:
    from zoo.objectives.perceptual import LPIPS

    try:
        return LPIPS(net)
    except RuntimeError as error:
        reason = error.__cause__ or error
        raise RuntimeError(
            f"LPIPS needs the weights of torchvision's {net} backbone, which could not be had ({reason}). Run once "
            "with network access, or measure psnr or ssim, which need none"
        ) from error


def bits_per_pixel(bits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bits of each image (B,) divided by the pixels of a picture of `size` (H, W)."""
    return bits / (size[0] * size[1])


def _pair(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if output.shape != target.shape or output.ndim != 4:
        raise ValueError(
            f"expected two batches (B, C, H, W) of one shape, got {tuple(output.shape)}, {tuple(target.shape)}"
        )
    return output.detach().to(torch.float32).clamp(-1, 1), target.detach().to(torch.float32)
