"""Mel filters, beside torchaudio's."""

from __future__ import annotations

import pytest
import torch
from torchaudio.functional import melscale_fbanks

from encoders.layers.mel_filters import mel_filters


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("area", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.0, None), (80.0, 7600.0)])
def test_the_same_as_torchaudio(scale: str, area: bool, low: float, high: float | None) -> None:
    ours = mel_filters(16000, 512, 40, low=low, high=high, scale=scale, area=area)  # type: ignore[arg-type]
    theirs = melscale_fbanks(257, low, high or 8000.0, 40, 16000, "slaney" if area else None, scale).T
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.max().item())


def test_bins_of_an_odd_window_end_below_half_the_rate() -> None:
    filters = mel_filters(16000, 321, 120, scale="slaney", area=True)
    even = mel_filters(16000, 320, 120, scale="slaney", area=True)
    assert filters.shape == even.shape == (120, 161)
    assert filters[-1, -1] > 0 and even[-1, -1] == 0  # 7975 Hz lies below the highest edge, 8000 Hz on it


@pytest.mark.parametrize("options", [{"low": -1.0}, {"high": 9000.0}, {"low": 5000.0, "high": 4000.0}])
def test_edges_outside_the_spectrum(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="8000 Hz"):
        mel_filters(16000, 512, 40, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale"):
        mel_filters(16000, 512, 40, scale="bark")  # type: ignore[arg-type]
