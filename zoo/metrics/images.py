"""Fidelity of images in [-1, 1], one number per image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from zoo.objectives.perceptual import LPIPS, Backbone

__all__ = ["Channels", "Window", "bits_per_pixel", "lpips", "ms_ssim", "psnr", "ssim"]

Window = Literal["gaussian", "uniform"]
Channels = Literal["rgb", "grey"]
LUMA = (0.299, 0.587, 0.114)  # BT.601, as Pillow and OpenCV turn pictures grey
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM, from the finest scale


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


def ssim(
    output: Tensor,
    target: Tensor,
    *,
    window: Window = "gaussian",
    data_range: float = 1.0,
    channels: Channels = "rgb",
) -> Tensor:
    """Structural similarity (Wang et al. 2004), the mean over all places where the window lies inside the picture.

    Args:
        output: (B, C, H, W), clamped to [-1, 1]; sides of at least the window's.
        target: (B, C, H, W) in [-1, 1].
        window: "gaussian" for 11 x 11 pixels of sigma 1.5 and covariances over n, as published; "uniform" for 7 x 7
            pixels and covariances over n - 1, scikit-image's default.
        data_range: L of the paper for pictures in [0, 1]. Some scripts pass 2 by mistake, which gives higher values.
        channels: "rgb" for the mean over the channels, "grey" for the luma alone.

    Returns:
        (B,) float32, 1 for equal images.

    Raises:
        ValueError: another option, or a picture smaller than the window.
    """
    structure, luminance = _similarity(*_planes(output, target, channels), window, data_range)
    return (structure * luminance).mean((1, 2, 3)).float()


def ms_ssim(output: Tensor, target: Tensor, *, channels: Channels = "rgb") -> Tensor:
    """Structural similarity over five scales (Wang et al. 2003), with the Gaussian window and halving by 2 x 2 means.

    Args:
        output: (B, C, H, W), clamped to [-1, 1]; sides of at least 161.
        target: (B, C, H, W) in [-1, 1].
        channels: as in `ssim`.

    Returns:
        (B,) float32, 1 for equal images. A negative mean, possible where the pictures are inverted, counts as 0.

    Raises:
        ValueError: another option, or a picture that is too small for five scales.
    """
    ours, theirs = _planes(output, target, channels)
    smallest = 10 * 2 ** (len(SCALES) - 1) + 1
    if min(ours.shape[2:]) < smallest:
        raise ValueError(
            f"ms_ssim needs sides of at least {smallest} pixels for its {len(SCALES)} scales, "
            f"got {tuple(ours.shape[2:])}; use ssim"
        )
    product = torch.ones(len(ours), dtype=torch.float64, device=ours.device)
    for scale, power in enumerate(SCALES, 1):
        structure, luminance = _similarity(ours, theirs, "gaussian", 1.0)
        value = structure * luminance if scale == len(SCALES) else structure
        product = product * value.mean((1, 2, 3)).clamp_min(0) ** power
        ours, theirs = (F.avg_pool2d(x, 2) for x in (ours, theirs))
    return product.float()


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


def _planes(output: Tensor, target: Tensor, channels: Channels) -> tuple[Tensor, Tensor]:
    """Two batches in [0, 1] as float64, which small variances of bright pixels need."""
    if channels not in get_args(Channels):
        raise ValueError(f"channels is one of {', '.join(get_args(Channels))}, got {channels!r}")
    pair = [x.double() / 2 + 0.5 for x in _pair(output, target)]
    if channels == "grey" and pair[0].shape[1] == 3:
        luma = torch.tensor(LUMA, dtype=torch.float64, device=output.device)[:, None, None]
        pair = [(x * luma).sum(1, keepdim=True) for x in pair]
    return pair[0], pair[1]


def _similarity(x: Tensor, y: Tensor, window: Window, data_range: float) -> tuple[Tensor, Tensor]:
    """The terms of Eq. 13, (B, C, h, w) each: contrast with structure, and luminance."""
    if window not in get_args(Window) or data_range <= 0:
        raise ValueError(
            f"expected a window of {', '.join(get_args(Window))} and a positive data_range, got {window!r}"
            f" and {data_range:g}"
        )
    side = 11 if window == "gaussian" else 7
    if min(x.shape[2:]) < side:
        raise ValueError(f"ssim needs sides of at least {side} pixels, got {tuple(x.shape[2:])}")
    weights, bessel = [1 / side] * side, side**2 / (side**2 - 1)
    if window == "gaussian":
        bell = [math.exp(-((place - side // 2) ** 2) / (2 * 1.5**2)) for place in range(side)]
        weights, bessel = [value / sum(bell) for value in bell], 1.0
    mean_x, mean_y = _blur(x, weights), _blur(y, weights)
    var_x, var_y, cov = (
        bessel * (_blur(a * b, weights) - mean_a * mean_b)
        for a, b, mean_a, mean_b in ((x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y))
    )
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (2 * cov + c2) / (var_x + var_y + c2), luminance


def _blur(x: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted means of a separable window over (B, C, H, W), only where it lies inside."""
    for dim in (2, 3):
        length = x.shape[dim] - len(weights) + 1
        total = weights[0] * x.narrow(dim, 0, length)
        for place, weight in enumerate(weights[1:], 1):
            total.add_(x.narrow(dim, place, length), alpha=weight)
        x = total
    return x


def _pair(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if output.shape != target.shape or output.ndim != 4:
        raise ValueError(
            f"expected two batches (B, C, H, W) of one shape, got {tuple(output.shape)}, {tuple(target.shape)}"
        )
    return output.detach().to(torch.float32).clamp(-1, 1), target.detach().to(torch.float32)
