"""Where training items come from: folders, WebDataset shards, Hugging Face data sets on disk."""

from __future__ import annotations

import io
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from zoo.data.audio import AUDIO_SUFFIXES
from zoo.data.images import from_pil

__all__ = [
    "IMAGES",
    "SHAPES",
    "SOUNDS",
    "FolderSource",
    "HubSource",
    "Kind",
    "ShardSource",
    "Source",
    "decode_image",
    "open_source",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the items of a source are.

    Attributes:
        name: of several of them, in messages.
        suffixes: of their files, in lower case.
        feature: the class of `datasets` that marks a column of them; "" where there is none.
    """

    name: str
    suffixes: tuple[str, ...]
    feature: str


IMAGES = Kind("images", (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm"), "Image")
SOUNDS = Kind("sound files", AUDIO_SUFFIXES, "Audio")
SHAPES = Kind("prepared shapes", (".safetensors",), "")
BESIDE = (".txt", ".cls", ".json")  # of WebDataset: caption, class, everything else


class Source(ABC):
    """Named files that can be read in any order and from any process.

    Attributes:
        kind: what the files are.
        names: what they are called, in a fixed order.
    """

    kind: Kind
    names: Sequence[str]

    @abstractmethod
    def open(self, index: int) -> BinaryIO:
        """File `index`, at its start; for the caller to close."""

    @abstractmethod
    def caption(self, index: int) -> str:
        """The text that belongs to item `index`, "" where there is none."""

    def beside(self, index: int, suffix: str) -> bytes | None:
        """The file of the same name as item `index` but with this suffix, one of `BESIDE`; None where there is none."""
        return None

    def read(self, index: int) -> bytes:
        """The whole of file `index`."""
        with self.open(index) as file:
            return file.read()


class FolderSource(Source):
    """Every file of a kind below a folder, in the order of the relative names; `NAME.txt` beside one is its caption."""

    def __init__(self, root: Path, kind: Kind = IMAGES) -> None:
        self.root, self.kind = root, kind
        found = (path for path in root.rglob("*") if path.suffix.lower() in kind.suffixes and path.is_file())
        self.names = sorted(path.relative_to(root).as_posix() for path in found)
        if not self.names:
            suffixes = ", ".join(kind.suffixes)
            raise ValueError(f"{root} holds no {kind.name} ({suffixes}); set data.root to a folder that does")

    def open(self, index: int) -> BinaryIO:
        return (self.root / self.names[index]).open("rb")

    def caption(self, index: int) -> str:
        return one_line(self.beside(index, ".txt") or b"")

    def beside(self, index: int, suffix: str) -> bytes | None:
        path = (self.root / self.names[index]).with_suffix(suffix)
        return path.read_bytes() if path.is_file() else None


class ShardSource(Source):
    """The files of a kind inside WebDataset shards (uncompressed tar files on disk); the member `KEY.txt` is a caption.

    The members' offsets are listed once when the source is opened; after that any place in any of them can be read at
    once, so order and resumption are as exact as for a folder.
    """

    names: list[str]

    def __init__(self, shards: Sequence[Path], kind: Kind = IMAGES) -> None:
        self.kind, self.names = kind, []
        self._places: list[tuple[Path, int, int]] = []
        self._beside: dict[tuple[str, str], tuple[Path, int, int]] = {}
        for shard in shards:
            try:
                with tarfile.open(shard, "r:") as archive:
                    for member in archive:
                        suffix, place = Path(member.name).suffix.lower(), (shard, member.offset_data, member.size)
                        if member.isfile() and suffix in kind.suffixes:
                            self.names.append(f"{shard.name}/{member.name}")
                            self._places.append(place)
                        elif member.isfile() and suffix in BESIDE:
                            self._beside[stem(f"{shard.name}/{member.name}"), suffix] = place
            except tarfile.TarError as error:
                raise ValueError(f"{shard} is not an uncompressed tar file ({error}); unpack .tar.gz first") from error
        if not self.names:
            suffixes = ", ".join(kind.suffixes)
            raise ValueError(f"the shards {[str(path) for path in shards]} hold no {kind.name} ({suffixes})")
        self._open: dict[Path, int] = {}
        self._process = os.getpid()

    def open(self, index: int) -> BinaryIO:
        return self._member(*self._places[index])

    def caption(self, index: int) -> str:
        return one_line(self.beside(index, ".txt") or b"")

    def beside(self, index: int, suffix: str) -> bytes | None:
        place = self._beside.get((stem(self.names[index]), suffix))
        if place is None:
            return None
        with self._member(*place) as file:
            return file.read()

    def _member(self, shard: Path, offset: int, size: int) -> BinaryIO:
        if self._process != os.getpid():
            self._open, self._process = {}, os.getpid()
        if shard not in self._open:
            self._open[shard] = os.open(shard, os.O_RDONLY)
        return cast(BinaryIO, io.BufferedReader(Window(self._open[shard], offset, size)))


class Window(io.RawIOBase):
    """A stretch of an open file as a file of its own, which leaves the position of the other alone.

    Args:
        descriptor: of the open file.
        offset: first byte.
        size: bytes.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.descriptor, self.offset, self.size = descriptor, offset, size
        self.place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        self.place = max(0, base + offset)
        return self.place

    def readinto(self, buffer: Any) -> int:
        """Read from the place on, up to the end of the stretch."""
        wanted = max(0, min(len(buffer), self.size - self.place))
        found = os.pread(self.descriptor, wanted, self.offset + self.place)
        buffer[: len(found)] = found
        self.place += len(found)
        return len(found)


class HubSource(Source):
    """A Hugging Face data set saved on disk with `save_to_disk`.

    Reads its first column of the kind; a text column named `caption` or `text`, or else the only one, holds captions.

    Attributes:
        data: all columns, as `datasets` gives them.
        text: the column of captions, None where there is none.
    """

    data: Any
    text: str | None

    def __init__(self, root: Path, split: str, kind: Kind = IMAGES) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ValueError("reading a Hugging Face data set needs `pip install tokenizer-zoo[train]`") from error
        data = datasets.load_from_disk(str(root))
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                raise ValueError(f"{root} has the splits {sorted(data)}, not {split!r}; set data.split")
            data = data[split]
        self._read(data, f"{root.name}/{split}", kind)

    @classmethod
    def of(cls, data: Any, name: str, kind: Kind = IMAGES) -> Self:
        """The source of a `datasets.Dataset` that is open already; items are called `NAME/INDEX`."""
        source = object.__new__(cls)
        source._read(data, name, kind)
        return source

    def _read(self, data: Any, name: str, kind: Kind) -> None:
        import datasets

        feature = getattr(datasets, kind.feature)
        columns = [name for name, column in data.features.items() if isinstance(column, feature)]
        if not columns:
            found = sorted(data.features)
            raise ValueError(f"{name} has no column of {kind.name}, only {found}; cast one to datasets.{kind.feature}")
        strings = ("string", "large_string")
        texts = [name for name, column in data.features.items() if getattr(column, "dtype", None) in strings]
        named = [name for name in ("caption", "text") if name in texts]
        self.text = named[0] if named else texts[0] if len(texts) == 1 else None
        self._rows: Any = data.select_columns(columns[:1]).cast_column(columns[0], feature(decode=False))
        self._captions: Any = None if self.text is None else data.select_columns([self.text])
        self._column, self.kind, self.data = columns[0], kind, data
        self.names = [f"{name}/{index}" for index in range(len(data))]

    def open(self, index: int) -> BinaryIO:
        cell = self._rows[index][self._column]
        return Path(cell["path"]).open("rb") if cell["bytes"] is None else io.BytesIO(cell["bytes"])

    def caption(self, index: int) -> str:
        if self._captions is None:
            return ""
        return one_line((self._captions[index][self.text] or "").encode())


def open_source(root: str | Path, split: str = "train", kind: Kind = IMAGES) -> Source:
    """Recognise what lies at `root` and open it.

    Args:
        root: a folder of files of the kind; a `.tar` shard, a folder of shards, or a pattern such as
            `shards/train-*.tar`; or a folder written by `datasets.save_to_disk`.
        split: which part of a Hugging Face `DatasetDict`.
        kind: what to look for.

    Raises:
        ValueError: nothing readable is there.
    """
    path = Path(root).expanduser()
    if path.is_file() and path.suffix == ".tar":
        return ShardSource([path], kind)
    if any(sign in path.name for sign in "*?["):
        shards = sorted(path.parent.glob(path.name))
        if not shards:
            raise ValueError(f"no file matches data.root={root}")
        return ShardSource(shards, kind)
    if not path.is_dir():
        raise ValueError(
            f"data.root={root} does not exist; give a folder of {kind.name}, tar shards or a saved data set"
        )
    if kind.feature and any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return HubSource(path, split, kind)
    shards = sorted(path.glob("*.tar"))
    return ShardSource(shards, kind) if shards else FolderSource(path, kind)


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
