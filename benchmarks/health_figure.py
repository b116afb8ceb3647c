"""The figure of `benchmarks/codebook_health.py`: usage, perplexity and quality of every quantizer, as dots on lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from zoo.data.sheet import FAINT, INK, PAPER

__all__ = ["draw"]

GRID = "#dcdce2"
COLOURS = ("#0072b2", "#d55e00")  # blue and vermilion of Okabe and Ito, told apart by all
NAMES, PANEL, GAP, STEP, TOP, BOTTOM, RADIUS = 390, 380, 56, 46, 128, 92, 9


@dataclass(frozen=True)
class Panel:
    """One axis.

    Attributes:
        title: above it.
        value: of a result; None leaves the dot out.
        low: left end.
        high: right end.
        ticks: values with a line.
        label: of a tick.
    """

    title: str
    value: Callable[[dict[str, Any]], float | None]
    low: float
    high: float
    ticks: Sequence[float]
    label: Callable[[float], str]

    def place(self, value: float) -> float:
        """Share of the width."""
        return min(max((value - self.low) / (self.high - self.low), 0), 1)


def draw(results: Sequence[dict[str, Any]], names: Sequence[str], bits: Sequence[int]) -> Image.Image:
    """Compose the figure.

    Args:
        results: of `codebook_health.run`.
        names: rows from top to bottom; those without a result are left out.
        bits: sizes, one colour each.

    Returns:
        An RGB picture, twice as large as it is shown.
    """
    rows = [name for name in names if any(row["name"] == name for row in results)]
    panels = axes(results)
    width = NAMES + (PANEL + GAP) * len(panels)
    sheet = Image.new("RGB", (width, TOP + STEP * len(rows) + BOTTOM), PAPER)
    pen = ImageDraw.Draw(sheet)
    plain, small = ImageFont.load_default(25), ImageFont.load_default(21)
    foot = TOP + STEP * len(rows)
    for number, panel in enumerate(panels):
        left = NAMES + (PANEL + GAP) * number
        pen.text((left, TOP - 46), panel.title, fill=INK, font=plain, anchor="ls")
        for tick in panel.ticks:
            x = left + PANEL * panel.place(tick)
            pen.line([(x, TOP - 22), (x, foot)], fill=GRID, width=2)
            pen.text((x, foot + 10), panel.label(tick), fill=FAINT, font=small, anchor="ma")
    for number, name in enumerate(rows):
        y = TOP + STEP * number + STEP // 2 - 11
        pen.text((NAMES - 36, y), name, fill=INK, font=plain, anchor="rm")
        for column, panel in enumerate(panels):
            left = NAMES + (PANEL + GAP) * column
            pen.line([(left, y), (left + PANEL, y)], fill=GRID, width=2)
            for size, colour in reversed(list(zip(bits, COLOURS, strict=True))):
                row = next((row for row in results if (row["name"], row["bits"]) == (name, size)), None)
                value = None if row is None else panel.value(row)
                if row is not None and value is not None:
                    mark(pen, left + PANEL * panel.place(value), y, colour if row["sizes"] else INK, size == bits[0])
    legend(pen, bits, plain)
    return sheet


def axes(results: Sequence[dict[str, Any]]) -> list[Panel]:
    """Usage in percent, perplexity in bits, PSNR in a range that fits."""
    quality = [row["psnr"] for row in results]
    low, high = math.floor(min(quality)), math.ceil(max(quality))
    step = max(1, math.ceil((high - low) / 5))
    high = low + step * math.ceil(max(high - low, 1) / step)
    return [
        Panel(
            "usage, share of codes",
            lambda row: row.get("usage"),
            0,
            1,
            [0, 0.25, 0.5, 0.75, 0.9, 1],
            lambda tick: f"{tick:.0%}" if tick != 1 else "",
        ),
        Panel(
            "perplexity, codes",
            lambda row: math.log2(row["perplexity"]) if "perplexity" in row else None,
            0,
            16,
            [0, 4, 8, 12, 16],
            lambda tick: f"2^{tick:.0f}",
        ),
        Panel(
            "PSNR, dB",
            lambda row: row["psnr"],
            low,
            high,
            list(range(low, high + 1, step)),
            lambda tick: f"{tick:.0f}",
        ),
    ]


def mark(pen: ImageDraw.ImageDraw, x: float, y: float, colour: str, full: bool) -> None:
    """A disc, or a diamond: sizes differ in shape as well as in colour."""
    if full:
        pen.ellipse([x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], fill=colour, outline=PAPER, width=2)
    else:
        reach = RADIUS + 3
        pen.polygon([(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)], fill=colour, outline=PAPER)


def legend(pen: ImageDraw.ImageDraw, bits: Sequence[int], font: Any) -> None:
    """What the marks mean, at the top left."""
    x = 40.0
    for size, colour in zip(bits, COLOURS, strict=True):
        mark(pen, x, 36, colour, size == bits[0])
        text = f"about 2^{size} codes"
        pen.text((x + 22, 36), text, fill=INK, font=font, anchor="lm")
        x += 22 + font.getlength(text) + 52
    mark(pen, x, 36, INK, True)
    pen.text((x + 22, 36), "continuous", fill=INK, font=font, anchor="lm")
