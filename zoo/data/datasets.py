"""Batches of augmented crops from an image source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.augment import colour_jitter, random_crop, random_resized_crop, resize_shorter
from zoo.data.captions import Captioned
from zoo.data.sampler import mix
from zoo.data.sources import Source

__all__ = ["Crops", "ErrorLog"]


class ErrorLog:
    """Counts unreadable items, and appends each once to a JSON-lines file when a path is given."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._seen: set[str] = set()

    def record(self, name: str, error: Exception) -> None:
        """Note that `name` could not be read."""
        if name in self._seen:
            return
        self._seen.add(name)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"item": name, "error": f"{type(error).__name__}: {error}"}) + "\n")

    @property
    def count(self) -> int:
        """Different items that failed: in the file, which all workers write, else in this process."""
        if self.path is None or not self.path.exists():
            return len(self._seen)
        with self.path.open() as file:
            return len({json.loads(line)["item"] for line in file})


class Crops(Dataset[Tensor | Captioned]):
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
        self.source, self.indices, self.size, self.seed = source, list(indices), size, seed
        self.scales, self.resize, self.crop, self.area = tuple(scales), resize, crop, area
        self.min_std, self.flip, self.jitter, self.captions = min_std, flip, jitter, captions
        self.errors = errors or ErrorLog()
        self._broken: set[int] = set()
        self._cached: dict[int, list[Tensor]] | None = None
        if cache:
            self._fill()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        """The crop (3, size, size) uint8 of one `(index, draw)`."""
        return self.__getitems__([key])[:1][0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Tensor | Captioned:
        """The batch (B, 3, size, size) uint8 of several `(index, draw)`, with captions where they are asked for."""
        indices, drawn = zip(*(self._draw(*key) for key in keys), strict=True)
        crops = torch.stack(drawn)
        if self.jitter > 0:
            crops = colour_jitter(
                crops, self.jitter, [np.random.default_rng(mix(self.seed, key[1], 1)) for key in keys]
            )
        return Captioned(crops, [self.source.caption(index) for index in indices]) if self.captions else crops

    def _draw(self, position: int, draw: int) -> tuple[int, Tensor]:
        """The index of the image that was used, and a crop of it."""
        rng = np.random.default_rng(mix(self.seed, draw))
        index, image = self._copy(position, rng)
        if self.crop == "resized":
            crop = random_resized_crop(image, self.size, rng, self.area, (3 / 4, 4 / 3))
        else:
            crop = random_crop(image, self.size, rng, self.min_std)
        return index, crop.flip(-1) if self.flip and rng.random() < 0.5 else crop

    def _copy(self, position: int, rng: np.random.Generator) -> tuple[int, Tensor]:
        """The first readable image from `position` on, and its index, at one of the scales that hold a crop."""
        for offset in range(len(self.indices)):
            index = self.indices[(position + offset) % len(self.indices)]
            if self._cached is not None:
                if index in self._cached:
                    copies = self._cached[index]
                    return index, copies[self._scale([min(copy.shape[1:]) for copy in copies], rng)]
            elif index not in self._broken and (image := self._read(index)) is not None:
                sides = [min(_scaled(image, scale)) for scale in self.scales]
                return index, _shrink(image, self.scales[self._scale(sides, rng)])
        raise ValueError(
            f"none of the {len(self.indices)} images can be read; the first is {self.source.names[self.indices[0]]!r}"
        )

    def _scale(self, sides: Sequence[int], rng: np.random.Generator) -> int:
        """Position of a scale whose shorter side is large enough; 0 when none is."""
        large = [position for position, side in enumerate(sides) if side >= self.size] or [0]
        return large[int(rng.integers(len(large)))]

    def _read(self, index: int) -> Tensor | None:
        try:
            image = self.source.read(index)
        except Exception as error:  # decoders raise anything on broken files, from OSError to struct.error
            self._broken.add(index)
            self.errors.record(self.source.names[index], error)
            return None
        return image if self.resize is None else resize_shorter(image, self.resize)

    def _fill(self) -> None:
        def copies(index: int) -> list[Tensor] | None:
            image = self._read(index)
            return None if image is None else [_shrink(image, scale) for scale in self.scales]

        with ThreadPoolExecutor() as pool:
            read = zip(self.indices, pool.map(copies, self.indices), strict=True)
            self._cached = {index: scaled for index, scaled in read if scaled is not None}


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
