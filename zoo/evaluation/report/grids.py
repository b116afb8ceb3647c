"""Samples beside each other: originals first, then what each tokenizer made of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from zoo.evaluation.report.groups import Group

__all__ = ["Grid", "Shelf", "Shown", "grids", "sheet"]

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".wav": "audio/wav", ".flac": "audio/flac"}
KINDS |= {".glb": "model/gltf-binary"}
SOUNDS = (".wav", ".flac")
BUDGET = 12 << 20  # bytes of files that a page holds; what is beyond is linked


@dataclass(frozen=True, slots=True)
class Shown:
    """One sample.

    Attributes:
        label: whose it is.
        picture: of it, as the address of an image; "" where there is none.
        sound, mesh: addresses of what it is a picture of; "" where it is none.
        file: the picture or sound on disk.
    """

    label: str
    picture: str
    sound: str
    mesh: str
    file: Path


@dataclass(frozen=True, slots=True)
class Grid:
    """One item: the original, and its reconstructions."""

    shown: list[Shown]


@dataclass(slots=True)
class Shelf:
    """Files of a folder as addresses for a page: with their content while that is small enough, then by their names.

    Attributes:
        folder: that the page stands in.
        room: bytes that still go into the page.
        linked: whether some files did not.
    """

    folder: Path
    room: int = BUDGET
    linked: bool = field(default=False)

    def find(self, name: str) -> Path | None:
        """A file of the folder, None where there is none or it is elsewhere."""
        path = (self.folder / name).resolve()
        return path if path.is_file() and path.is_relative_to(self.folder.resolve()) else None

    def address(self, path: Path) -> str:
        """Of a file of the folder."""
        if path.stat().st_size > self.room or path.suffix.lower() not in KINDS:
            self.linked = True
            return quote(path.relative_to(self.folder.resolve()).as_posix())
        return self.inline(path.read_bytes(), KINDS[path.suffix.lower()])

    def inline(self, data: bytes, kind: str) -> str:
        """Of a content."""
        self.room -= len(data)
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def grids(group: Group, shelf: Shelf) -> list[Grid]:
    """Of the items that the rows of a group have samples of; files of one name are the same item."""
    items: dict[str, list[Shown]] = {}
    loudest: dict[str, float] = {}
    for row in group.rows:
        for original, made in zip(row.run.originals, row.result.samples, strict=False):
            first, second = shelf.find(original), shelf.find(made)
            if first is not None and second is not None:
                if first.stem not in items:
                    items[first.stem] = [_shown("original", first, first.stem, shelf, loudest)]
                items[first.stem].append(_shown(row.name, second, first.stem, shelf, loudest))
    return [Grid(shown) for shown in items.values()]


def sheet(grid: Sequence[Grid]) -> Image | None:
    """All of them as one picture, for pages that cannot arrange them; None where there are none."""
    from zoo.data.images import read_image
    from zoo.data.sheet import Panel, side_by_side

    panels = []
    for item in grid:
        loudest = None
        for shown in item.shown:
            if shown.sound:
                picture, loudest = _spectrogram(shown.file, loudest)
            else:
                picture = read_image(shown.file)
            panels.append(Panel(picture, shown.label))
    return side_by_side(panels, columns=max(len(item.shown) for item in grid)) if panels else None


def _shown(label: str, file: Path, item: str, shelf: Shelf, loudest: dict[str, float]) -> Shown:
    """A sample; spectrograms of one item have the colours of its original."""
    if file.suffix.lower() not in SOUNDS:
        mesh = file.with_name(f"{file.stem}.glb")
        return Shown(label, shelf.address(file), "", shelf.address(mesh) if mesh.is_file() else "", file)
    from zoo.data.images import to_pil

    picture, loudest[item] = _spectrogram(file, loudest.get(item))
    drawn = io.BytesIO()
    to_pil(picture).save(drawn, "PNG")
    return Shown(label, shelf.inline(drawn.getvalue(), KINDS[".png"]), shelf.address(file), "", file)


def _spectrogram(file: Path, loudest: float | None) -> tuple[Tensor, float]:
    """A picture (3, H, W) of a sound, and the level of its brightest colour, dB."""
    from zoo.data.audio import AudioFile
    from zoo.data.spectrogram import draw_spectrogram, spectrogram

    with AudioFile(file) as sound:
        found = spectrogram(sound, columns=420, rows=200)
    top = float(found.levels.max()) if loudest is None else loudest
    return draw_spectrogram(found, loudest=top, width=420), top
