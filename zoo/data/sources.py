"""Where training images come from: folders, WebDataset shards, Hugging Face data sets on disk."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from zoo.data.images import from_pil

__all__ = ["EXTENSIONS", "FolderSource", "HubSource", "ShardSource", "Source", "decode_image", "open_source"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm")


class Source(Protocol):
    """Named images that can be read in any order and from any process."""

    @property
    def names(self) -> Sequence[str]:
        """What the images are called, in a fixed order."""
        ...

    def read(self, index: int) -> Tensor:
        """Image `index` as (3, H, W) uint8; raises for a file that is no readable image."""
        ...

    def caption(self, index: int) -> str:
        """The text that belongs to image `index`, "" where there is none."""
        ...


class FolderSource:
    """Every image file below a folder, in the order of the relative names; `NAME.txt` beside an image is a caption."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found = (path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
        self.names = sorted(path.relative_to(root).as_posix() for path in found)
        if not self.names:
            raise ValueError(f"{root} holds no images ({', '.join(EXTENSIONS)}); set data.root to a folder that does")

    def read(self, index: int) -> Tensor:
        return decode_image((self.root / self.names[index]).read_bytes())

    def caption(self, index: int) -> str:
        path = (self.root / self.names[index]).with_suffix(".txt")
        return one_line(path.read_bytes()) if path.is_file() else ""


class ShardSource:
    """The images inside WebDataset shards (uncompressed tar files on disk); the member `KEY.txt` is a caption.

    The members' offsets are listed once when the source is opened; after that any image is one read, so order and
    resumption are as exact as for a folder.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.names: list[str] = []
        self._places: list[tuple[Path, int, int]] = []
        self._texts: dict[str, tuple[Path, int, int]] = {}
        for shard in shards:
            try:
                with tarfile.open(shard, "r:") as archive:
                    for member in archive:
                        kind, place = Path(member.name).suffix.lower(), (shard, member.offset_data, member.size)
                        if member.isfile() and kind in EXTENSIONS:
                            self.names.append(f"{shard.name}/{member.name}")
                            self._places.append(place)
                        elif member.isfile() and kind == ".txt":
                            self._texts[stem(f"{shard.name}/{member.name}")] = place
            except tarfile.TarError as error:
                raise ValueError(f"{shard} is not an uncompressed tar file ({error}); unpack .tar.gz first") from error
        if not self.names:
            raise ValueError(f"the shards {[str(path) for path in shards]} hold no images ({', '.join(EXTENSIONS)})")
        self._open: dict[Path, int] = {}
        self._process = os.getpid()

    def read(self, index: int) -> Tensor:
        return decode_image(self._bytes(*self._places[index]))

    def caption(self, index: int) -> str:
        place = self._texts.get(stem(self.names[index]))
        return "" if place is None else one_line(self._bytes(*place))

    def _bytes(self, shard: Path, offset: int, size: int) -> bytes:
        if self._process != os.getpid():
            self._open, self._process = {}, os.getpid()
        if shard not in self._open:
            self._open[shard] = os.open(shard, os.O_RDONLY)
        return os.pread(self._open[shard], size, offset)


class HubSource:
    """A Hugging Face data set saved on disk with `save_to_disk`.

    Reads its first image column; a text column named `caption` or `text`, or else the only one, holds captions.
    """

    def __init__(self, root: Path, split: str) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ValueError("reading a Hugging Face data set needs `pip install tokenizer-zoo[train]`") from error
        data = datasets.load_from_disk(str(root))
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                raise ValueError(f"{root} has the splits {sorted(data)}, not {split!r}; set data.split")
            data = data[split]
        columns = [name for name, kind in data.features.items() if isinstance(kind, datasets.Image)]
        if not columns:
            raise ValueError(f"{root} has no image column, only {sorted(data.features)}; cast one to datasets.Image")
        strings = ("string", "large_string")
        texts = [name for name, kind in data.features.items() if getattr(kind, "dtype", None) in strings]
        named = [name for name in ("caption", "text") if name in texts]
        self._text = named[0] if named else texts[0] if len(texts) == 1 else None
        self._rows: Any = data.select_columns(columns[:1]).cast_column(columns[0], datasets.Image(decode=False))
        self._captions: Any = None if self._text is None else data.select_columns([self._text])
        self._column = columns[0]
        self.names = [f"{root.name}/{split}/{index}" for index in range(len(data))]

    def read(self, index: int) -> Tensor:
        cell = self._rows[index][self._column]
        return decode_image(cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes())

    def caption(self, index: int) -> str:
        if self._captions is None:
            return ""
        return one_line((self._captions[index][self._text] or "").encode())


def open_source(root: str | Path, split: str = "train") -> Source:
    """Recognise what lies at `root` and open it.

    Args:
        root: a folder of images; a `.tar` shard, a folder of shards, or a pattern such as `shards/train-*.tar`; or a
            folder written by `datasets.save_to_disk`.
        split: which part of a Hugging Face `DatasetDict`.

    Raises:
        ValueError: nothing readable is there.
    """
    path = Path(root).expanduser()
    if path.is_file() and path.suffix == ".tar":
        return ShardSource([path])
    if any(sign in path.name for sign in "*?["):
        shards = sorted(path.parent.glob(path.name))
        if not shards:
            raise ValueError(f"no file matches data.root={root}")
        return ShardSource(shards)
    if not path.is_dir():
        raise ValueError(f"data.root={root} does not exist; give a folder of images, tar shards or a saved data set")
    if any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return HubSource(path, split)
    shards = sorted(path.glob("*.tar"))
    return ShardSource(shards) if shards else FolderSource(path)


def stem(name: str) -> str:
    """A name without its last suffix, by which pictures and captions of a shard belong together."""
    return str(Path(name).with_suffix(""))


def one_line(data: bytes) -> str:
    """A caption's text with single spaces; bytes that are no UTF-8 are replaced."""
    return " ".join(data.decode("utf-8", "replace").split())


def decode_image(data: bytes) -> Tensor:
    """The RGB pixels of an encoded image, turned upright, as (3, H, W) uint8; other modes as `from_pil` reads them.

    Raises:
        OSError: the bytes are not a complete image.
    """
    with Image.open(io.BytesIO(data)) as picture:
        if picture.mode == "RGB" and not picture.has_transparency_data:
            pixels = np.asarray(ImageOps.exif_transpose(picture))
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        return ((from_pil(picture) + 1) * 127.5).round().to(torch.uint8)
