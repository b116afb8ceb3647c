"""Many pictures from wherever they come, in batches."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.sources import decode_image, open_source

__all__ = ["PictureArray", "Pile", "Samples", "open_archive", "to_levels"]

Samples = str | Path | Iterable[Tensor] | Callable[[int], Tensor]


class PictureArray:
    """Pictures in the member `arr_0` of an npz file, read piece by piece.

    Args:
        path: the file.

    Attributes:
        shape: (N, H, W, 3).

    Raises:
        ValueError: the file is damaged, or its `arr_0` is not such an array of uint8.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_archive(self.path) as archive, archive.open("arr_0.npy") as file:
            self.shape, _ = self._header(file)

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, size: int) -> Iterator[Tensor]:
        """All pictures in order, (B, 3, H, W) float32 in [-1, 1].

        Raises:
            ValueError: the file ends early.
        """
        with open_archive(self.path) as archive, archive.open("arr_0.npy") as file:
            shape, _ = self._header(file)
            one = int(np.prod(shape[1:]))
            for start in range(0, len(self), size):
                count = min(size, len(self) - start)
                try:
                    data = file.read(count * one)
                except (zipfile.BadZipFile, OSError, EOFError) as error:
                    raise ValueError(f"{self.path} is damaged after {start} pictures ({error})") from error
                if len(data) != count * one:
                    raise ValueError(f"{self.path} ends after {start + len(data) // one} of {len(self)} pictures")
                pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(count, *shape[1:])
                yield pixels.permute(0, 3, 1, 2).float() / 127.5 - 1

    def _header(self, file: Any) -> tuple[tuple[int, ...], np.dtype]:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except (ValueError, zipfile.BadZipFile, OSError, EOFError) as error:
            raise ValueError(f"{self.path}: arr_0 cannot be read ({error})") from error
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran or 0 in shape:
            raise ValueError(f"{self.path}: expected arr_0 as uint8 (N, H, W, 3), got {dtype} {shape}")
        return shape, dtype


class Pile:
    """Pictures of a folder, of tar shards, of an npz file's `arr_0`, of a generator, or of an iterable, in batches.

    Args:
        origin: where they come from.
        count: how many are asked for; None for all. A generator needs it.
        size: pictures in a batch.

    Attributes:
        failed: names of what could not be read, with the reason; filled while batches are made.
        sizes: of the pictures seen, (height, width).
        seen: how many.

    Raises:
        ValueError: nothing is there, or a generator without a count.
    """

    def __init__(self, origin: Samples, count: int | None, size: int) -> None:
        self.count, self.size = count, size
        self.failed: list[str] = []
        self.sizes: set[tuple[int, int]] = set()
        self.seen, self._levels = 0, hashlib.sha256()
        if isinstance(origin, (str, Path)):
            path = Path(origin)
            self.what = path.name
            self._parts = self._array(PictureArray(path)) if path.suffix == ".npz" else self._folder(path)
        elif callable(origin):
            if count is None:
                raise ValueError("a generator is asked for a number of pictures: pass count=50000")
            self.what, self._parts = "a generator", self._drawn(origin, count)
        else:
            self.what, self._parts = "an iterable", iter(origin)

    def __iter__(self) -> Iterator[Tensor]:
        """Batches (B, 3, H, W) in [-1, 1]; pictures of another size than those before begin a new one."""
        left = self.count
        for batch in self._parts:
            if batch.ndim != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
                raise ValueError(f"expected float pictures (B, 3, H, W) in [-1, 1], got {batch.dtype} {batch.shape}")
            batch = batch if left is None else batch[:left]
            for picture in to_levels(batch):
                self.sizes.add(picture.shape[:2])
                self._levels.update(f"{picture.shape[:2]}".encode() + picture.tobytes())
                self.seen += 1
            yield from batch.split(self.size)
            if left is not None:
                left -= len(batch)
                if left <= 0:
                    return

    def describe(self) -> dict[str, Any]:
        """What was seen, as plain data; the digest is of sizes and 8-bit levels, the same for any kind of file."""
        return {"name": self.what, "pictures": self.seen, "sha256": self._levels.hexdigest()}

    def _array(self, pictures: PictureArray) -> Iterator[Tensor]:
        return pictures.batches(self.size)

    def _drawn(self, sample: Callable[[int], Tensor], count: int) -> Iterator[Tensor]:
        for start in range(0, count, self.size):
            yield sample(min(self.size, count - start))

    def _folder(self, path: Path) -> Iterator[Tensor]:
        source = open_source(path)

        def read() -> Iterator[Tensor]:
            waiting: list[Tensor] = []
            for number, name in enumerate(source.names):
                try:
                    picture = decode_image(source.read(number)).float() / 127.5 - 1
                except (OSError, ValueError, SyntaxError) as error:
                    self.failed.append(f"{name}: {error}")
                    continue
                if waiting and (picture.shape != waiting[0].shape or len(waiting) == self.size):
                    yield torch.stack(waiting)
                    waiting = []
                waiting.append(picture)
            if waiting:
                yield torch.stack(waiting)

        return read()


def to_levels(batch: Tensor) -> np.ndarray:
    """Pictures (B, 3, H, W) in [-1, 1] as uint8 (B, H, W, 3), rounded; NaN as 0."""
    levels = ((batch.detach().float().clamp(-1, 1) + 1) * 127.5).round().nan_to_num().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def open_archive(path: Path) -> zipfile.ZipFile:
    """An npz file, to read members from.

    Raises:
        ValueError: it is none, or was cut off.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is no npz file, or was cut off ({error}); download it again") from error
