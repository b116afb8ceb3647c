"""Resizing, cropping and rounding of pictures as the evaluation scripts of published tokenizers do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.images import fit, from_pil, to_pil

__all__ = ["CROPS", "LEVELS", "Levels", "cv2_linear", "originals", "reconstructions"]

Levels = Literal["truncate", "truncate_signed", "round", "float"]
LEVELS: dict[str, str] = {
    "truncate": "x in [0, 1] times 255, cut off; originals keep their levels",
    "truncate_signed": "(x + 1) / 2 times 255 of x in [-1, 1], cut off, of originals too: 63 of 256 levels fall by one",
    "round": "127.5 x + 128, clamped, cut off, which rounds; originals keep their levels",
    "float": "no levels: floats in [-1, 1]",
}


def originals(pixels: Tensor, levels: str) -> Tensor:
    """What a protocol compares with.

    Args:
        pixels: (..., h, w) float32 in [-1, 1], of 256 levels: u / 127.5 - 1 as `ToTensor` and `Normalize` give it.
        levels: a key of `LEVELS`.

    Returns:
        Floats in [-1, 1] alike.
    """
    return _levels(((pixels.float() + 1) / 2 * 255).to(torch.uint8)) if levels == "truncate_signed" else pixels


def reconstructions(output: Tensor, levels: str) -> Tensor:
    """What a decoder gave, clamped and brought to levels; arguments and result as of `originals`. NaN stays NaN."""
    output = output.float().clamp(-1, 1)
    if levels == "float":
        return output
    scaled = output * 127.5 + 128 if levels == "round" else (output + 1) / 2 * 255
    whole = _levels(scaled.nan_to_num().clamp(0, 255).to(torch.uint8))
    return torch.where(torch.isnan(output), output, whole)


def _levels(values: Tensor) -> Tensor:
    """uint8 as x = (u / 255 - 0.5) / 0.5 in float32, the order of `ToTensor` and `Normalize`."""
    return (values.float() / 255 - 0.5) / 0.5


def pil_filter(name: str) -> Callable[[Image.Image, int], Image.Image]:
    """torchvision's `Resize` and `CenterCrop` on Pillow pictures, with a filter of Pillow (antialiased)."""

    def crop(picture: Image.Image, side: int) -> Image.Image:
        width, height = picture.size
        size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        picture = picture.resize(size, Image.Resampling[name])
        left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
        return picture.crop((left, top, left + side, top + side))

    return crop


def adm(picture: Image.Image, side: int) -> Image.Image:
    """ADM's `center_crop_arr`: halved by BOX while twice too large, then BICUBIC, then the centre."""
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def albumentations(picture: Image.Image, side: int) -> Image.Image:
    """`SmallestMaxSize` and `CenterCrop` of albumentations: OpenCV's bilinear filter without antialias."""
    scale = side / min(picture.size)
    picture = cv2_linear(picture, (round(picture.width * scale), round(picture.height * scale)))
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def cv2_linear(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """OpenCV's INTER_LINEAR: two pixels along each axis however much smaller the picture becomes.

    Weights are floats here and have 11 bits in OpenCV, so that single levels can differ by one.

    Args:
        size: (width, height).
    """
    values = torch.from_numpy(np.array(picture, np.float64)).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(values, (size[1], size[0]), mode="bilinear", align_corners=False)[0]
    return Image.fromarray(small.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def antialiased(picture: Image.Image, side: int) -> Image.Image:
    """What `zoo reconstruct` does: torch's antialiased bicubic filter on floats, then the centre."""
    return to_pil(fit(from_pil(picture), side)[0])


CROPS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "pil_bicubic": pil_filter("BICUBIC"),
    "pil_bilinear": pil_filter("BILINEAR"),
    "pil_lanczos": pil_filter("LANCZOS"),
    "adm": adm,
    "cv2_linear": albumentations,
    "torch_bicubic": antialiased,
}
