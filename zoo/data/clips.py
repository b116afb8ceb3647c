"""Batches of random stretches of sound, read without the rest of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.audio import AudioFile
from zoo.data.draws import Draws, ErrorLog, read_all
from zoo.data.loudness import Measure, decibels, set_level
from zoo.data.signals import Mixed, Resampled, Signal
from zoo.data.sources import Source

__all__ = ["Clips", "Floor", "Level"]

TRIES = 10
INT16 = 32768


@dataclass(frozen=True, slots=True)
class Level:
    """How loud clips are made.

    Attributes:
        measure: of what; see `zoo.data.loudness`.
        low: smallest level in dB.
        high: largest; one in between is drawn for each clip.
    """

    measure: Measure
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Floor:
    """What a clip must reach not to count as silence, in dB of full scale.

    Attributes:
        peak: of the largest sample.
        rms: of the root mean square.
    """

    peak: float = -torch.inf
    rms: float = -torch.inf

    def excess(self, clip: Tensor, sample_rate: int) -> float:
        """By how much a clip (C, T) passes both, dB; negative for silence."""
        return min(
            decibels(clip, "peak", sample_rate) - self.peak,
            decibels(clip, "rms", sample_rate) - self.rms,
        )


class Clips(Draws):
    """Random stretches of the sounds of a source; what a draw gives depends on (seed, draw) alone.

    Only the samples of a clip, and a few around it for resampling, are decoded. A clip on which decoding fails is
    recorded, and cut from the next file instead.

    Args:
        source: named sound files.
        indices: which of them belong to this set.
        samples: length of a clip.
        sample_rate: Hz of the clips, to which files are resampled.
        channels: of the clips; see `zoo.data.signals.mix` for files with more or fewer.
        seed: of the choices.
        by: "files" draws each file equally often; "seconds" each stretch of a clip's length, for which the headers of
            all files are read at the start.
        short: "tile" repeats a sound that is shorter than a clip, "pad" puts silence behind it.
        level: loudness that clips get, or None for that of their files.
        floor: where silence ends. Ten stretches are tried, then the loudest of them is taken. None takes the first.
        cache: decode every file once and keep it in memory as 16-bit samples.
        errors: where unreadable files are recorded.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int],
        samples: int,
        sample_rate: int,
        channels: int = 1,
        *,
        seed: int = 0,
        by: Literal["files", "seconds"] = "files",
        short: Literal["tile", "pad"] = "tile",
        level: Level | None = None,
        floor: Floor | None = None,
        cache: bool = False,
        errors: ErrorLog | None = None,
    ) -> None:
        super().__init__(source, indices, seed, errors)
        self.samples, self.sample_rate, self.channels = samples, sample_rate, channels
        self.short, self.level, self.floor = short, level, floor
        self._cached = read_all(self.indices, lambda index: self.attempt(index, self._whole)) if cache else None
        if by == "seconds":
            lengths = read_all(self.indices, lambda index: self.attempt(index, self._length))
            if lengths:  # else drawing says that nothing can be read
                self.indices = [
                    index for index, length in lengths.items() for _ in range(max(1, round(length / self.samples)))
                ]

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        """The clip (C, samples) float32 of one `(index, draw)`."""
        position, draw = key

        def take(index: int, attempt: int) -> Tensor | None:
            return self.attempt(index, lambda index: self._clip(index, self.rng(draw, attempt)))

        return self.first(position, take)[1]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Tensor:
        """The batch (B, C, samples) float32 of several `(index, draw)`."""
        return torch.stack([self[key] for key in keys])

    def _clip(self, index: int, rng: np.random.Generator) -> Tensor:
        if self._cached is not None:
            clip = self._cut(Stored(self._cached[index], self.sample_rate), rng)
        else:
            with self._open(index) as file:
                clip = self._cut(self._fitted(file), rng)
        clip = self._lengthened(clip)
        if self.level is None:
            return clip.contiguous()
        return set_level(clip, rng.uniform(self.level.low, self.level.high), self.level.measure, self.sample_rate)

    def _cut(self, signal: Signal, rng: np.random.Generator) -> Tensor:
        """A stretch of at most `samples`, redrawn while it is silent."""
        room = signal.length - self.samples
        if room <= 0:
            return signal.read(0, signal.length)
        best, most = None, -torch.inf
        for _ in range(1 if self.floor is None else TRIES):
            start = int(rng.integers(room + 1))
            clip = signal.read(start, start + self.samples)
            excess = 0.0 if self.floor is None else self.floor.excess(clip, self.sample_rate)
            if excess >= 0:
                return clip
            if best is None or excess > most:
                best, most = clip, excess
        assert best is not None
        return best

    def _lengthened(self, clip: Tensor) -> Tensor:
        """A clip of exactly `samples`."""
        missing = self.samples - clip.shape[1]
        if missing > 0 and self.short == "tile":
            clip = clip.repeat(1, -(-self.samples // clip.shape[1]))[:, : self.samples]
        elif missing > 0:
            clip = torch.nn.functional.pad(clip, (0, missing))
        return clip

    def _open(self, index: int) -> AudioFile:
        file = self.source.open(index)
        try:
            return AudioFile(self.source.names[index], file)
        except Exception:
            file.close()
            raise

    def _fitted(self, file: AudioFile) -> Signal:
        """A file at the rate and with the channels of the clips."""
        return Resampled(Mixed(file, self.channels), self.sample_rate)

    def _whole(self, index: int) -> Tensor:
        """A whole file, (C, T) int16."""
        with self._open(index) as file:
            signal = self._fitted(file)
            samples = signal.read(0, signal.length)
        return (samples * INT16).round().clamp(-INT16, INT16 - 1).to(torch.int16)

    def _length(self, index: int) -> int:
        """Samples of a file at the rate of the clips."""
        if self._cached is not None:
            return self._cached[index].shape[1]
        with self._open(index) as file:
            return self._fitted(file).length


class Stored:
    """16-bit samples (C, T) in memory as a signal."""

    def __init__(self, samples: Tensor, sample_rate: int) -> None:
        self.samples, self.sample_rate = samples, sample_rate
        self.channels, self.length = samples.shape

    def read(self, start: int, stop: int) -> Tensor:
        """As `Signal.read`."""
        return self.samples[:, start:stop].float() / INT16
