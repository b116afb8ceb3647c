"""Sounds that are read piece by piece: of other rates and channels without ever holding the whole."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Array", "Mixed", "Resampled", "Signal", "blocks", "mix", "resample"]

FINEST = 4096
LOBES = 6  # of the sinc on each side, torchaudio's default


class Signal(Protocol):
    """Samples that can be read from any place; cheap when places rise and pieces overlap little.

    Attributes:
        channels: C.
        sample_rate: Hz.
        length: samples of each channel.
    """

    @property
    def channels(self) -> int: ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def length(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Samples start to stop as (C, stop - start) float32; 0 <= start <= stop <= length."""
        ...


class Array:
    """A sound that is in memory.

    Args:
        samples: (C, T) float.
        sample_rate: Hz.
    """

    def __init__(self, samples: Tensor, sample_rate: int) -> None:
        if samples.ndim != 2 or not samples.is_floating_point():
            raise ValueError(f"expected float samples (C, T), got {samples.dtype} {tuple(samples.shape)}")
        self.samples, self.sample_rate = samples, sample_rate
        self.channels, self.length = samples.shape

    def read(self, start: int, stop: int) -> Tensor:
        """As `Signal.read`."""
        return self.samples[:, start:stop]


class Mixed:
    """A sound on another number of channels; see `mix`."""

    def __init__(self, signal: Signal, channels: int) -> None:
        self.signal, self.channels = signal, channels
        self.sample_rate, self.length = signal.sample_rate, signal.length

    def read(self, start: int, stop: int) -> Tensor:
        """As `Signal.read`."""
        return mix(self.signal.read(start, stop), self.channels)


class Resampled:
    """A sound at another rate, equal to `resample` of the whole.

    Args:
        signal: the sound.
        sample_rate: Hz.
        length: samples to offer, as many as `resample` gives by default; beyond its end there is silence.
    """

    def __init__(self, signal: Signal, sample_rate: int, length: int | None = None) -> None:
        self.signal, self.sample_rate, self.channels = signal, sample_rate, signal.channels
        self.step_in, self.step_out = _steps(signal.sample_rate, sample_rate)
        self.full = ceil(signal.length * self.step_out / self.step_in)
        self.length = self.full if length is None else length
        reach = ceil(LOBES * self.step_in / min(self.step_in, self.step_out) / 0.99) + 1
        self.margin = ceil(reach / self.step_in) * self.step_in

    def read(self, start: int, stop: int) -> Tensor:
        """As `Signal.read`."""
        end = min(stop, self.full)
        if end <= start:
            return torch.zeros(self.channels, stop - start)
        if self.step_in == self.step_out:
            found = self.signal.read(start, end)
        else:
            place = start // self.step_out * self.step_in
            before = max(0, place - self.margin)
            after = min(self.signal.length, ceil(end / self.step_out) * self.step_in + self.margin)
            piece = resample(self.signal.read(before, after), self.signal.sample_rate, self.sample_rate)
            skip = start - before // self.step_in * self.step_out
            found = piece[:, skip : skip + end - start]
        return torch.nn.functional.pad(found, (0, stop - start - found.shape[1]))


def resample(samples: Tensor, old: int, new: int) -> Tensor:
    """Change the rate of (..., T) with torchaudio's polyphase filter (Hann-windowed sinc of 6 zero crossings a side).

    Rates without a common divisor, such as 44 101 and 24 000 Hz, are met to 1 part in 10^7, since their filter would
    have 10^9 taps.

    Args:
        samples: (..., T) float.
        old, new: Hz.

    Returns:
        (..., ceil(T * new / old)).
    """
    from torchaudio.functional import resample as polyphase

    step_in, step_out = _steps(old, new)
    return samples if step_in == step_out else polyphase(samples, step_in, step_out, lowpass_filter_width=LOBES)


def mix(samples: Tensor, channels: int) -> Tensor:
    """(C, T) on another number of channels: as it is where that is C, else the mean of all on each of them."""
    if len(samples) == channels:
        return samples
    return samples.mean(0, keepdim=True).expand(channels, -1)


def blocks(length: int, size: int) -> list[tuple[int, int]]:
    """Starts and stops of pieces of `size` that make up `length`."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _steps(old: int, new: int) -> tuple[int, int]:
    """Samples in and out after which the filter repeats."""
    if min(old, new) < 1:
        raise ValueError(f"sample rates are at least 1 Hz, got {old} and {new}")
    ratio = Fraction(new, old)
    if max(ratio.numerator, ratio.denominator) > FINEST:
        scale = min(1.0, float(1 / ratio))
        ratio = ratio.limit_denominator(max(1, int(FINEST * scale)))
    return ratio.denominator, ratio.numerator
