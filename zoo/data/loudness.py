"""How loud a sound is, and bringing it to a level."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Measure", "decibels", "set_level"]

Measure = Literal["gain", "peak", "rms", "lufs"]
SILENCE = -70.0
MOST_GAIN = 40.0
SHORTEST = 0.5  # seconds in which ITU-R BS.1770 finds a whole block of 400 ms


def decibels(sound: Tensor, measure: Measure, sample_rate: int) -> float:
    """Level of a sound (C, T), at least -70.

    Args:
        measure: "peak" or "rms" over all channels, in dB of full scale; "lufs", loudness after ITU-R BS.1770, for
            which sounds below half a second are extended with silence; "gain", 0 for any sound.
        sample_rate: Hz.
    """
    if measure == "gain":
        return 0.0
    if measure == "lufs":
        from torchaudio.functional import loudness

        short = max(0, math.ceil(SHORTEST * sample_rate) - sound.shape[1])
        value = float(loudness(torch.nn.functional.pad(sound, (0, short)), sample_rate))
        return max(SILENCE, value) if math.isfinite(value) else SILENCE
    amplitude = float(sound.abs().max() if measure == "peak" else sound.square().mean().sqrt())
    return max(SILENCE, 20 * math.log10(amplitude)) if amplitude > 0 else SILENCE


def set_level(sound: Tensor, level: float, measure: Measure, sample_rate: int) -> Tensor:
    """Scale a sound (C, T) to a level in dB, by at most 40 dB upwards, and never beyond [-1, 1].

    Args:
        level: to reach; with "gain", by how much to change.
        measure: of what, see `decibels`.
        sample_rate: Hz.
    """
    gain = min(MOST_GAIN, level - decibels(sound, measure, sample_rate))
    scaled = sound * 10 ** (gain / 20)
    return scaled / scaled.abs().max().clamp_min(1.0)
