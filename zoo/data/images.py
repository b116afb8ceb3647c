"""Image files in and out, and fitting pictures to what a tokenizer takes.

Inside the library an image is a float32 tensor (3, H, W) in [-1, 1].
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from zoo.store.files import replacing

__all__ = ["IMAGE_SUFFIXES", "Fit", "FitMode", "fit", "from_pil", "read_image", "resize", "to_pil", "write_image"]

FitMode = Literal["crop", "pad", "stretch"]
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".ppm", ".pgm", ".pbm")
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_PIXELS = 89_478_485


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a PNG, JPEG, WebP, TIFF, GIF, BMP or PNM file; animations and multi-page files give their first picture.

    See `from_pil` for how colour modes, transparency and orientation are handled.

    Args:
        max_pixels: refuse larger pictures before they are decoded, since a small file can claim any size.

    Returns:
        (3, H, W) float32 in [-1, 1].

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, truncated, too large, or not an image of a known format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise ValueError(_too_large(path, f"{image.width} x {image.height}", max_pixels))
                image.load()
                return from_pil(image)
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(path, str(error), max_pixels)) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image of a known format; expected {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: damaged or truncated image ({error})") from error


def from_pil(image: Image.Image) -> Tensor:
    """A Pillow image as a tensor.

    The EXIF orientation is applied. Grey, palette, 1-bit, CMYK, YCbCr, HSV become RGB; CMYK without its colour
    profile, so tones may shift slightly. 16-bit values are scaled to [-1, 1], not cut off at 255. Transparent pixels
    are composited on white.

    Returns:
        (3, H, W) float32 in [-1, 1].

    Raises:
        ValueError: a colour mode without an obvious range, such as float pictures beyond [0, 1].
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        unit, alpha = _deep(image)
        pixels = np.repeat(unit[..., None], 3, axis=2)
    elif image.has_transparency_data or image.mode in ("RGBa", "La"):
        straight = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
        rgba = np.asarray((image.convert(straight) if straight else image).convert("RGBA"), np.float32) / 255
        pixels, alpha = rgba[..., :3], rgba[..., 3]
    else:
        try:
            pixels, alpha = np.asarray(image.convert("RGB"), np.float32) / 255, None
        except ValueError as error:
            raise ValueError(f"no conversion from colour mode {image.mode!r} to RGB; save it as RGB first") from error
    if alpha is not None:
        pixels = pixels * alpha[..., None] + (1 - alpha[..., None])
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)) * 2 - 1


def _deep(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey values (H, W) in [0, 1] of a picture with more than 8 bits, and its alpha."""
    values = np.asarray(image)
    key = image.info.get("transparency")
    alpha = (values != key).astype(np.float32) if isinstance(key, int) else None
    low, high = float(values.min()), float(values.max())
    limit = 1.0 if image.mode == "F" else 65535.0
    if not (low >= 0 and high <= limit):
        raise ValueError(
            f"a picture of mode {image.mode!r} has values from {low:g} to {high:g}, expected 0 to {limit:g}; "
            "its white point is not known, scale it first"
        )
    return values.astype(np.float32) / limit, alpha


def to_pil(image: Tensor) -> Image.Image:
    """A tensor (3, H, W) in [-1, 1] (values beyond are clamped) as an 8-bit RGB picture."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected an image (3, H, W) in [-1, 1], got {tuple(image.shape)}; pass one item of a batch")
    levels = (image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(levels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def write_image(path: str | Path, image: Tensor | Image.Image, *, quality: int = 95) -> Path:
    """Write a PNG, JPEG or WebP file, chosen by its suffix; an existing file is replaced once the new one is complete.

    Args:
        image: (3, H, W) in [-1, 1], or a Pillow picture.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ValueError: an unknown suffix, or not one image.
    """
    path = Path(path)
    kind = WRITABLE.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {', '.join(WRITABLE)}")
    picture = to_pil(image) if isinstance(image, Tensor) else image
    with replacing(path) as draft:
        picture.save(draft, kind, quality=quality)
    return path


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic resize of (3, H, W) to (3, *size), clamped to [-1, 1]."""
    if tuple(image.shape[1:]) == size:
        return image
    return nn.functional.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(-1, 1)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture was fitted, so that what a tokenizer decodes can be put back.

    Attributes:
        mode: "crop", "pad" or "stretch".
        source: (H, W) of the picture.
        region: (top, left, height, width) in the picture that the tokenizer saw; less than all of it for "crop".
        size: (h, w) that the tokenizer saw.
        content: (top, left, height, width) of the picture inside `size`; less than all of it for "pad".
    """

    mode: FitMode
    source: tuple[int, int]
    region: tuple[int, int, int, int]
    size: tuple[int, int]
    content: tuple[int, int, int, int]

    def unfit(self, image: Tensor) -> Tensor:
        """Undo the fit: (3, *size) back to (3, height, width) of `region`, which is the whole picture unless cropped.

        Raises:
            ValueError: the image is not of `size`.
        """
        return resize(self.trim(image), self.region[2:])

    def trim(self, image: Tensor) -> Tensor:
        """(3, *size) without the border that "pad" added, at the tokenizer's resolution."""
        if tuple(image.shape[1:]) != self.size:
            raise ValueError(f"expected an image (3, {self.size[0]}, {self.size[1]}), got {tuple(image.shape)}")
        return _cut(image, self.content)

    def view(self, picture: Tensor) -> Tensor:
        """The part of the original picture (3, *source) that the tokenizer saw, at the picture's resolution."""
        return _cut(picture, self.region)


def fit(image: Tensor, size: int | tuple[int, int], mode: FitMode = "crop") -> tuple[Tensor, Fit]:
    """Bring a picture to a size.

    "crop" scales the picture until it just covers `size` and cuts the centre out, as evaluations on ImageNet do;
    "pad" scales it until it just fits and repeats its border; "stretch" ignores the aspect ratio. Smaller pictures
    are enlarged.

    Args:
        image: (3, H, W) in [-1, 1].
        size: (h, w), or a side of a square.

    Returns:
        The image (3, h, w) and the `Fit` that undoes it.

    Raises:
        ValueError: an unknown mode or an empty size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if mode not in get_args(FitMode):
        raise ValueError(f"mode is one of {', '.join(get_args(FitMode))}, got {mode!r}")
    if height < 1 or width < 1:
        raise ValueError(f"expected a size of at least 1 x 1, got {height} x {width}")
    source = (image.shape[1], image.shape[2])
    whole, full = (0, 0, *source), (0, 0, height, width)
    if mode == "stretch":
        return resize(image, (height, width)), Fit(mode, source, whole, (height, width), full)
    if mode == "crop":
        scale = max(height / source[0], width / source[1])
        outer = (max(height, int(source[0] * scale)), max(width, int(source[1] * scale)))
        box = _centre(outer, (height, width))
        region = _centre(source, (min(source[0], round(height / scale)), min(source[1], round(width / scale))))
        return _cut(resize(image, outer), box), Fit(mode, source, region, (height, width), full)
    scale = min(height / source[0], width / source[1])
    inner = (min(height, max(1, round(source[0] * scale))), min(width, max(1, round(source[1] * scale))))
    content = _centre((height, width), inner)
    margins = (content[1], width - inner[1] - content[1], content[0], height - inner[0] - content[0])
    padded = nn.functional.pad(resize(image, inner)[None], margins, mode="replicate")[0]
    return padded, Fit(mode, source, whole, (height, width), content)


def _centre(outer: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int, int, int]:
    height, width = max(1, inner[0]), max(1, inner[1])
    return round((outer[0] - height) / 2), round((outer[1] - width) / 2), height, width


def _cut(image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    top, left, height, width = box
    return image[:, top : top + height, left : left + width]


def _too_large(path: Path, what: str, limit: int) -> str:
    return f"{path}: {what} pixels, at most {limit} are read; pass max_pixels= if you trust it"
