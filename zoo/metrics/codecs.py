"""What ordinary image formats reach with as many bytes as a code: the baselines beside a tokenizer's numbers."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image
from torch import Tensor

from zoo.data.images import from_pil, resize, to_pil

__all__ = ["Compressed", "Format", "compress", "compress_at", "thumbnail"]

Format = Literal["JPEG", "WebP"]
# Encoders at their most thorough; JPEG keeps its 4:2:0 chroma, which is the better choice at low rates.
_OPTIONS: dict[str, dict[str, int | bool]] = {"JPEG": {"optimize": True}, "WebP": {"method": 6}}
_QUALITIES = {"JPEG": (1, 95), "WebP": (0, 100)}


@dataclass(frozen=True, slots=True)
class Compressed:
    """A picture after a lossy format.

    Attributes:
        image: (3, H, W) in [-1, 1], what the file decodes to.
        size: bytes of the whole file, header included.
        quality: the encoder's setting.
        fits: whether the file is within the budget; False only when the smallest file is not.
    """

    image: Tensor
    size: int
    quality: int
    fits: bool


def compress(image: Tensor, budget: int, kind: Format) -> Compressed:
    """The best JPEG or WebP file of at most `budget` bytes, else the smallest file that the encoder can write.

    The quality is found by bisection: the size of a file is taken to grow with it, except between the lowest few, where
    headers are most of the file and all are tried.

    Args:
        image: (3, H, W) in [-1, 1].
        budget: bytes.
        kind: "JPEG" (optimised Huffman tables, 4:2:0) or "WebP" (lossy, method 6).

    Raises:
        ValueError: another format.
    """
    if kind not in get_args(Format):
        raise ValueError(f"kind is one of {', '.join(get_args(Format))}, got {kind!r}")
    picture = to_pil(image)
    low, high = _QUALITIES[kind]
    coarse = {quality: _encode(picture, kind, quality) for quality in range(low, low + 4)}
    low = min(coarse, key=lambda quality: (len(coarse[quality]), -quality))
    best = coarse[low]
    if len(best) > budget:
        return Compressed(_decode(best), len(best), low, fits=False)
    while low < high:
        middle = (low + high + 1) // 2
        data = _encode(picture, kind, middle)
        if len(data) <= budget:
            low, best = middle, data
        else:
            high = middle - 1
    return Compressed(_decode(best), len(best), low, fits=True)


def compress_at(image: Tensor, quality: int, kind: Format) -> Compressed:
    """The JPEG or WebP file at one quality setting; encoders as in `compress`.

    Args:
        image: (3, H, W) in [-1, 1].
        quality: 1 to 95 for JPEG, 0 to 100 for WebP.
        kind: "JPEG" or "WebP".

    Raises:
        ValueError: another format or quality.
    """
    if kind not in get_args(Format):
        raise ValueError(f"kind is one of {', '.join(get_args(Format))}, got {kind!r}")
    low, high = _QUALITIES[kind]
    if not low <= quality <= high:
        raise ValueError(f"{kind} has qualities {low} to {high}, got {quality}")
    data = _encode(to_pil(image), kind, quality)
    return Compressed(_decode(data), len(data), quality, fits=True)


def thumbnail(image: Tensor, bits: float) -> tuple[Tensor, tuple[int, int]]:
    """A small copy of 24 bits a pixel that costs at most `bits`, enlarged again; both ways antialiased bicubic.

    Args:
        image: (3, H, W) in [-1, 1].
        bits: budget, at least 24.

    Returns:
        (3, H, W) in [-1, 1] with the small copy rounded to 8 bits a channel, and the copy's (height, width).

    Raises:
        ValueError: fewer bits than one pixel has.
    """
    if bits < 24:
        raise ValueError(f"a thumbnail needs at least 24 bits, the cost of one pixel; got {bits:g}")
    size = (image.shape[1], image.shape[2])
    scale = min(1.0, math.sqrt(bits / 24 / (size[0] * size[1])))
    pixels = math.floor(bits / 24)
    height = min(pixels, max(1, math.floor(size[0] * scale)))
    small = (height, min(pixels // height, max(1, round(size[1] * scale))))
    return resize(from_pil(to_pil(resize(image, small))), size), small


def _encode(picture: Image.Image, kind: Format, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=quality, **_OPTIONS[kind])
    return buffer.getvalue()


def _decode(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as picture:
        return from_pil(picture)
