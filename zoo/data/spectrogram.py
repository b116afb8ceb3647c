"""Pictures of sounds: what `zoo reconstruct` draws for audio."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.data.images import from_pil
from zoo.data.sheet import FAINT, PAPER
from zoo.data.signals import Signal

__all__ = ["Spectrogram", "draw_spectrogram", "spectrogram"]

# From quiet to loud, even steps of lightness: black, violet, red, orange, cream.
COLOURS = ((4, 4, 12), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))
WINDOW = 0.04  # s
ROWS, COLUMNS = 320, 760
RANGE = 80.0  # dB
LEFT, BOTTOM, TEXT = 58, 26, 15
TICKS_HZ = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)


@dataclass(frozen=True, slots=True)
class Spectrogram:
    """Levels over time and frequency.

    Attributes:
        levels: (rows, columns) dB, row 0 at 0 Hz and the last at `highest`, evenly spaced in mel.
        highest: Hz.
        seconds: duration.
    """

    levels: Tensor
    highest: float
    seconds: float


def spectrogram(signal: Signal, *, columns: int = COLUMNS, rows: int = ROWS) -> Spectrogram:
    """Power at `rows` frequencies, in windows of 40 ms at evenly spaced times: the same work for a second and an hour.

    Args:
        signal: the mean of its channels is looked at.
        columns: windows at most; short sounds have one every 5 ms.

    Raises:
        ValueError: no samples.
    """
    rate, length = signal.sample_rate, signal.length
    if length == 0:
        raise ValueError("a spectrogram needs samples, got none")
    size = 1 << max(4, round(log2(WINDOW * rate)))
    count = max(1, min(columns, round(length / (0.005 * rate))))
    window = torch.hann_window(size)
    powers = []
    for column in range(count):
        start = round((column + 0.5) * length / count) - size // 2
        first, last = max(0, start), min(length, start + size)
        samples = signal.read(first, last).float().mean(0)
        samples = torch.nn.functional.pad(samples, (first - start, start + size - last))
        powers.append(torch.fft.rfft(samples * window).abs().square())
    power = torch.stack(powers, 1) / window.square().sum()
    mels = torch.linspace(0, _mel(rate / 2), rows)
    places = 700 * (10 ** (mels / 2595) - 1) / rate * size
    low = places.floor().long().clamp(0, size // 2 - 1)
    share = (places - low)[:, None].clamp(0, 1)
    levels = 10 * torch.log10((power[low] * (1 - share) + power[low + 1] * share).clamp_min(1e-12))
    return Spectrogram(levels, rate / 2, length / rate)


def draw_spectrogram(found: Spectrogram, *, loudest: float | None = None, width: int = COLUMNS) -> Tensor:
    """A picture with axes in kHz and seconds.

    Args:
        loudest: dB of the brightest colour, 80 dB above the darkest; None for the loudest place of this sound. Pictures
            to be compared need the same.
        width: pixels of the drawn area.

    Returns:
        (3, H, W) in [-1, 1].
    """
    top = float(found.levels.max()) if loudest is None else loudest
    unit = ((found.levels - top) / RANGE + 1).clamp(0, 1).numpy()[::-1]
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(unit, stops, [colour[channel] for colour in COLOURS]) for channel in range(3)]
    pixels = Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
    height = pixels.height
    sheet = Image.new("RGB", (LEFT + width, height + BOTTOM), PAPER)
    sheet.paste(pixels.resize((width, height), Image.Resampling.BICUBIC), (LEFT, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    lowest = float(height)  # of the labels so far, that they do not run into each other
    for tick in TICKS_HZ:
        y = height * (1 - _mel(tick) / _mel(found.highest))
        if TEXT / 2 < y < lowest - TEXT:
            lowest = y
            pen.line([(LEFT - 5, y), (LEFT, y)], FAINT)
            label = f"{tick} Hz" if tick < 1000 else f"{tick // 1000} kHz"
            pen.text((LEFT - 8, y), label, FAINT, font, anchor="rm")
    step = _step(found.seconds)
    for number in range(int(found.seconds / step + 1e-9) + 1):
        x = LEFT + width * number * step / found.seconds
        label = f"{number * step:g} s"
        pen.line([(min(x, LEFT + width - 1), height), (min(x, LEFT + width - 1), height + 5)], FAINT)
        half = font.getlength(label) / 2
        pen.text((min(max(x, LEFT + half), LEFT + width - half), height + 7), label, FAINT, font, anchor="ma")
    return from_pil(sheet)


def _mel(hertz: float) -> float:
    return 2595 * float(np.log10(1 + hertz / 700))


def _step(seconds: float) -> float:
    """Distance of about eight ticks at round numbers."""
    unit = 10.0 ** np.floor(np.log10(seconds / 8))
    return float(next(unit * digit for digit in (1, 2, 5, 10) if seconds / (unit * digit) <= 8))
