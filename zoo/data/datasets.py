"""Batches of augmented crops from an image source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.augment import colour_jitter, random_crop, random_resized_crop, resize_shorter
from zoo.data.captions import Captioned
from zoo.data.draws import Draws, ErrorLog, read_all
from zoo.data.sources import Source, decode_image

__all__ = ["Crops"]


class Crops(Draws):
    """Random crops of the images of a source; what a draw gives depends on (seed, draw) alone.

    Args:
        source: named images.
        indices: which of them belong to this set.
        size: pixels of the square crops.
        seed: of the augmentation.
        scales: factors by which an image may be shrunk before it is cropped; one is drawn per crop.
        resize: shorter side that every image gets when it is read, or None.
        crop: "random" cuts windows, "resized" cuts windows of random area and ratio and resizes them.
        area: bounds of the area of "resized" windows, in (0, 1].
        min_std: least grey standard deviation of a random crop, 0 to 255.
        flip: mirror half of the crops.
        jitter: strength of the colour jitter in [0, 1].
        cache: decode every image once and keep all scales in memory as uint8.
        errors: where unreadable images are recorded. A draw that meets one takes the next readable image.
        captions: give batches the captions of their images, as `Captioned`.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int],
        size: int,
        *,
        seed: int = 0,
        scales: Sequence[float] = (1.0,),
        resize: int | None = None,
        crop: str = "random",
        area: tuple[float, float] = (0.25, 1.0),
        min_std: float = 0.0,
        flip: bool = True,
        jitter: float = 0.0,
        cache: bool = False,
        errors: ErrorLog | None = None,
        captions: bool = False,
    ) -> None:
        super().__init__(source, indices, seed, errors)
        self.size, self.scales, self.resize, self.crop, self.area = size, tuple(scales), resize, crop, area
        self.min_std, self.flip, self.jitter, self.captions = min_std, flip, jitter, captions
        self._broken: set[int] = set()
        self._cached = read_all(self.indices, self._copies) if cache else None

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        """The crop (3, size, size) uint8 of one `(index, draw)`."""
        return self.__getitems__([key])[:1][0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Tensor | Captioned:
        """The batch (B, 3, size, size) uint8 of several `(index, draw)`, with captions where they are asked for."""
        indices, drawn = zip(*(self._draw(*key) for key in keys), strict=True)
        crops = torch.stack(drawn)
        if self.jitter > 0:
            crops = colour_jitter(crops, self.jitter, [self.rng(draw, 1) for _, draw in keys])
        return Captioned(crops, [self.source.caption(index) for index in indices]) if self.captions else crops

    def _draw(self, position: int, draw: int) -> tuple[int, Tensor]:
        """The index of the image that was used, and a crop of it."""
        rng = self.rng(draw)
        index, image = self.first(position, lambda index, _: self._copy(index, rng))
        if self.crop == "resized":
            crop = random_resized_crop(image, self.size, rng, self.area, (3 / 4, 4 / 3))
        else:
            crop = random_crop(image, self.size, rng, self.min_std)
        return index, crop.flip(-1) if self.flip and rng.random() < 0.5 else crop

    def _copy(self, index: int, rng: np.random.Generator) -> Tensor | None:
        """Image `index` at one of the scales that hold a crop; None where it cannot be read."""
        if self._cached is not None:
            copies = self._cached.get(index)
            return None if copies is None else copies[self._scale([min(copy.shape[1:]) for copy in copies], rng)]
        if index in self._broken or (image := self._read(index)) is None:
            return None
        return _shrink(image, self.scales[self._scale([min(_scaled(image, scale)) for scale in self.scales], rng)])

    def _scale(self, sides: Sequence[int], rng: np.random.Generator) -> int:
        """Position of a scale whose shorter side is large enough; 0 when none is."""
        large = [position for position, side in enumerate(sides) if side >= self.size] or [0]
        return large[int(rng.integers(len(large)))]

    def _read(self, index: int) -> Tensor | None:
        image = self.attempt(index, lambda index: decode_image(self.source.read(index)))
        if image is None:
            self._broken.add(index)
            return None
        return image if self.resize is None else resize_shorter(image, self.resize)

    def _copies(self, index: int) -> list[Tensor] | None:
        image = self._read(index)
        return None if image is None else [_shrink(image, scale) for scale in self.scales]


def _scaled(image: Tensor, scale: float) -> tuple[int, int]:
    """(H, W) of an image at a scale."""
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[2] * scale))


def _shrink(image: Tensor, scale: float) -> Tensor:
    """(3, H, W) uint8 at `scale` in (0, 1], LANCZOS."""
    if scale == 1:
        return image
    height, width = _scaled(image, scale)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    small = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    return torch.from_numpy(small.transpose(2, 0, 1).copy())
