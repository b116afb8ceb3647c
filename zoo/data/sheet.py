"""Pictures beside each other with a caption under each: what `zoo reconstruct` and the demo write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.data.images import to_pil

__all__ = ["Panel", "side_by_side"]

PAPER, INK, FAINT = "#ffffff", "#1b1b1f", "#6b6b76"
SMALLEST = 320


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture with its caption.

    Attributes:
        image: (3, H, W) in [-1, 1].
        title: first line, in dark ink.
        lines: further lines, fainter.
    """

    image: Tensor
    title: str
    lines: Sequence[str] = ()


def side_by_side(panels: Sequence[Panel], *, columns: int | None = None) -> Image.Image:
    """Compose panels left to right at a common height, captions underneath.

    Small pictures are enlarged by a whole factor to at least 320 pixels, so that the caption can be read; large ones
    keep their pixels.

    Args:
        panels: at least one.
        columns: start a new row after so many; None for one row.

    Raises:
        ValueError: no panels, or columns below 1.
    """
    if not panels or (columns is not None and columns < 1):
        raise ValueError(f"side_by_side needs panels and columns of at least 1, got {len(panels)} and {columns}")
    height = max(panel.image.shape[1] for panel in panels)
    height *= max(1, ceil(SMALLEST / height))
    size = min(34, max(15, round(height / 20)))
    cells = [_cell(panel, height, size) for panel in panels]
    width = columns or len(cells)
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    gap = size
    wide = max(sum(cell.width for cell in row) + gap * (len(row) + 1) for row in rows)
    tall = sum(max(cell.height for cell in row) + gap for row in rows) + gap
    sheet = Image.new("RGB", (wide, tall), PAPER)
    y = gap
    for row in rows:
        x = gap
        for cell in row:
            sheet.paste(cell, (x, y))
            x += cell.width + gap
        y += max(cell.height for cell in row) + gap
    return sheet


def _cell(panel: Panel, height: int, size: int) -> Image.Image:
    """A picture of the given height with its caption."""
    title, plain = ImageFont.load_default(round(size * 1.1)), ImageFont.load_default(size)
    picture = to_pil(panel.image)
    width = max(1, round(picture.width * height / picture.height))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    texts = [(panel.title, title, INK), *((line, plain, FAINT) for line in panel.lines)]
    broad = ceil(max(font.getlength(text) for text, font, _ in texts))
    step = round(size * 1.4)
    cell = Image.new("RGB", (max(width, broad), height + size // 2 + step * len(texts)), PAPER)
    cell.paste(picture, (0, 0))
    draw = ImageDraw.Draw(cell)
    for number, (text, font, colour) in enumerate(texts):
        draw.text((0, height + size // 2 + step * number), text, fill=colour, font=font)
    return cell
