"""Crops, flips and colour changes on uint8 images; every draw comes from the generator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["colour_jitter", "random_crop", "random_resized_crop", "resize_shorter"]

GREY = (0.299, 0.587, 0.114)
TRIES = 10


def resize_shorter(image: Tensor, side: int) -> Tensor:
    """Resize (3, H, W) uint8 so that its shorter side is `side` (antialiased bicubic)."""
    height, width = image.shape[1:]
    scale = side / min(height, width)
    return _resize(image, max(side, round(height * scale)), max(side, round(width * scale)))


def random_crop(image: Tensor, size: int, rng: np.random.Generator, min_std: float = 0.0) -> Tensor:
    """A (3, size, size) window, redrawn while it is flat.

    Args:
        image: (3, H, W) uint8; enlarged first when a side is shorter than `size`.
        size: pixels.
        rng: source of the draws.
        min_std: least standard deviation of the grey values, 0 to 255. After 10 flat draws the most structured is
            taken.
    """
    if min(image.shape[1:]) < size:
        image = resize_shorter(image, size)
    rows, columns = image.shape[1] - size + 1, image.shape[2] - size + 1
    best, best_std = None, -1.0
    for _ in range(TRIES if min_std > 0 else 1):
        top, left = int(rng.integers(rows)), int(rng.integers(columns))
        crop = image[:, top : top + size, left : left + size]
        if min_std <= 0:
            return crop
        std = _grey_std(crop)
        if std >= min_std:
            return crop
        if std > best_std:
            best, best_std = crop, std
    assert best is not None
    return best


def random_resized_crop(
    image: Tensor, size: int, rng: np.random.Generator, area: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """A window of random area and aspect ratio, resized to (3, size, size) uint8.

    Args:
        image: (3, H, W) uint8.
        size: pixels of the result.
        rng: source of the draws.
        area: bounds of the window's share of the picture, in (0, 1].
        ratio: bounds of width / height, drawn evenly in the logarithm.
    """
    height, width = image.shape[1:]
    for _ in range(TRIES):
        pixels = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < wide <= width and 0 < high <= height:
            top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
            break
    else:
        high = wide = min(height, width)
        top, left = (height - high) // 2, (width - wide) // 2
    return _resize(image[:, top : top + high, left : left + wide], size, size)


def colour_jitter(images: Tensor, strength: float, streams: Sequence[np.random.Generator]) -> Tensor:
    """Brightness, contrast, saturation (each times 1 +- strength) and hue (+- strength * 0.3 rad), per image.

    All four are linear in colour, so they are applied as one 3x3 matrix and one offset.

    Args:
        images: (B, 3, H, W) uint8.
        strength: in [0, 1].
        streams: source of the draws of each image.

    Returns:
        (B, 3, H, W) uint8.
    """
    grey = np.tile(np.asarray(GREY), (3, 1))
    # Axes of chroma in RGB, orthogonal to grey shifts: YIQ without its scale.
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    from_yiq = np.linalg.inv(to_yiq)
    matrices, offsets = [], []
    pixels = images.float()
    means = pixels.mean((2, 3)).numpy() @ np.asarray(GREY)
    for mean, rng in zip(means, streams, strict=True):
        brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
        angle = 0.3 * strength * rng.uniform(-1, 1)
        cos, sin = math.cos(angle), math.sin(angle)
        hue = from_yiq @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ to_yiq
        colour = saturation * np.eye(3) + (1 - saturation) * grey
        matrices.append(brightness * contrast * colour @ hue)
        offsets.append(brightness * (1 - contrast) * mean)
    matrix = torch.from_numpy(np.stack(matrices)).float()
    offset = torch.from_numpy(np.stack(offsets)).float()[:, None, None]
    flat = torch.baddbmm(offset, matrix, pixels.flatten(2))
    return flat.round_().clamp_(0, 255).to(torch.uint8).view_as(images)


def _grey_std(crop: Tensor) -> float:
    values = crop[:, ::2, ::2].float()
    return float((GREY[0] * values[0] + GREY[1] * values[1] + GREY[2] * values[2]).std())


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    # uint8 in channels-last order takes torch's vectorised integer path.
    batch = image[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(batch, (height, width), mode="bicubic", antialias=True, align_corners=False)[0].contiguous()
