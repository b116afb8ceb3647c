"""Triangular filters that are evenly spaced on the mel scale."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["mel_filters"]

# Slaney's scale is linear up to 1 kHz and logarithmic above (Auditory Toolbox, 1998).
_KNEE, _LINEAR, _OCTAVES = 1000.0, 3 / 200, math.log(6.4) / 27


def mel_filters(
    sample_rate: int,
    n_fft: int,
    bands: int,
    *,
    low: float = 0.0,
    high: float | None = None,
    scale: Literal["htk", "slaney"] = "htk",
    area: bool = False,
) -> Tensor:
    """Weights that take a spectrum to mel bands, computed in float64.

    Args:
        sample_rate: Hz.
        n_fft: window of the spectrum, samples.
        bands: number M of filters.
        low: lower edge of the lowest filter, Hz.
        high: upper edge of the highest filter, Hz; None for half the sample rate.
        scale: "htk" (2595 log10(1 + f / 700)) or "slaney".
        area: whether each filter has area 1 over Hz ("slaney" normalisation) and not height 1.

    Returns:
        (M, n_fft // 2 + 1) float32. A filter narrower than the distance of two bins may be all zeros.

    Raises:
        ValueError: the edges do not fit the sample rate, or there is no band.
    """
    high = sample_rate / 2 if high is None else high
    if bands < 1 or not 0 <= low < high <= sample_rate / 2:
        raise ValueError(
            f"mel_filters expects bands >= 1 and 0 <= low < high <= {sample_rate / 2:g} Hz, "
            f"got bands={bands}, low={low:g}, high={high:g}"
        )
    if scale not in ("htk", "slaney"):
        raise ValueError(f"scale is htk or slaney, got {scale!r}")
    edges = torch.tensor([low, high], dtype=torch.float64)
    first, last = (_mel(edges, scale)).tolist()
    points = _hertz(torch.linspace(first, last, bands + 2, dtype=torch.float64), scale)[:, None]
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (sample_rate / n_fft)
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    filters = torch.minimum(rising, falling).clamp_min(0)
    if area:
        filters = filters * (2 / (points[2:] - points[:-2]))
    return filters.float()


def _mel(hertz: Tensor, scale: str) -> Tensor:
    if scale == "htk":
        return 2595 * (1 + hertz / 700).log10()
    above = _KNEE * _LINEAR + (hertz.clamp_min(_KNEE) / _KNEE).log() / _OCTAVES
    return torch.where(hertz < _KNEE, hertz * _LINEAR, above)


def _hertz(mel: Tensor, scale: str) -> Tensor:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = _KNEE * ((mel - _KNEE * _LINEAR).clamp_min(0) * _OCTAVES).exp()
    return torch.where(mel < _KNEE * _LINEAR, mel / _LINEAR, above)
