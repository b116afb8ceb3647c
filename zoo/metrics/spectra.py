"""Distances of waveforms and of their spectra, in the conventions that codecs are compared in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.metrics.recordings import RecordingMean

__all__ = ["LogMelDistance", "MelDistance", "STFTDistance", "WaveformDistance"]

SCALES: dict[str, dict[str, Any]] = {
    "dac": {},
    "codec_superb": {"windows": (2048, 512), "bands": (150, 80), "power": 2.0, "magnitude_l1": 1.0},
}


class LogMelDistance(RecordingMean):
    """Mean absolute difference of natural-log mel magnitudes, 0 for equal recordings; lower is better.

    The default spectrum is that of WavTokenizer's and Vocos' mel loss: 100 HTK bands, window 1024, hop 256, magnitudes
    floored at 1e-7. Times 8.686 it is in dB.

    Args:
        sample_rate: Hz.
        n_fft: window, samples.
        hop: samples between frames; None for a quarter of the window.
        bands: mel bands.
        floor: smallest magnitude.
        rate: Hz to resample to; None to leave it.
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False

    def __init__(
        self,
        sample_rate: int,
        *,
        n_fft: int = 1024,
        hop: int | None = None,
        bands: int = 100,
        floor: float = 1e-7,
        rate: int | None = None,
        **kwargs: Any,
    ) -> None:
        from zoo.objectives.audio.spectrum import MelSpectrogram

        super().__init__(sample_rate, rate=rate, **kwargs)
        self.floor = floor
        self.mel = MelSpectrogram(self.rate, n_fft, bands, hop=hop)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of each recording: (R, T) twice -> (R,)."""
        ours, theirs = (self.mel(x[:, None]).clamp_min(self.floor).log() for x in (output, target))
        return (ours - theirs).abs().mean((1, 2, 3))


class MelDistance(RecordingMean):
    """Distance of mel spectra at several resolutions, 0 for equal recordings; lower is better.

    Both conventions have hops of a quarter of the window, Slaney's filters and magnitudes m floored at 1e-5:

    - "dac" (`MelSpectrogramLoss` as descript-audio-codec trains and reports it): the sum over windows of 32 to 2048
      samples with 5 to 320 bands of mean|log10 m - log10 m'|.
    - "codec_superb" (the class of that name in Codec-SUPERB): windows of 2048 and 512 samples with 150 and 80 bands,
      mean|log10 m^2 - log10 m'^2| + mean|m - m'|.

    Args:
        sample_rate: Hz.
        scales: which convention.
        rate: Hz to resample to; None to leave it.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: unknown scales.
    """

    higher_is_better = False

    def __init__(
        self,
        sample_rate: int,
        scales: Literal["dac", "codec_superb"] = "dac",
        *,
        rate: int | None = None,
        **kwargs: Any,
    ) -> None:
        from zoo.objectives.audio.losses import MelLoss

        if scales not in SCALES:
            raise ValueError(f"scales are one of {', '.join(SCALES)}, got {scales!r}")
        super().__init__(sample_rate, rate=rate, **kwargs)
        self.scales = scales
        self.loss = MelLoss(self.rate, **SCALES[scales])

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of each recording: (R, T) twice -> (R,)."""
        return _each(self.loss, output, target)

    def details(self) -> dict[str, Any]:
        """The rate and the convention."""
        return {**super().details(), "scales": self.scales}


class STFTDistance(RecordingMean):
    """Distance of magnitude spectra m at several resolutions, 0 for equal recordings; lower is better.

    The sum over windows of mean|log10 m^2 - log10 m'^2| + mean|m - m'|, magnitudes floored at 1e-5 under the
    logarithm: `MultiScaleSTFTLoss` of descript-audio-codec and of Codec-SUPERB with its default windows.

    Args:
        sample_rate: Hz.
        windows: samples; hops are a quarter.
        rate: Hz to resample to; None to leave it.
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False

    def __init__(
        self, sample_rate: int, windows: Sequence[int] = (2048, 512), *, rate: int | None = None, **kwargs: Any
    ) -> None:
        from zoo.objectives.audio.losses import STFTLoss

        super().__init__(sample_rate, rate=rate, **kwargs)
        self.windows = tuple(windows)
        self.loss = STFTLoss(self.windows)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of each recording: (R, T) twice -> (R,)."""
        return _each(self.loss, output, target)

    def details(self) -> dict[str, Any]:
        """The rate and the windows."""
        return {**super().details(), "windows": list(self.windows)}


class WaveformDistance(RecordingMean):
    """Mean absolute difference of samples; lower is better.

    Args:
        sample_rate: Hz.
        rate: Hz to resample to; None to leave it.
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of each recording: (R, T) twice -> (R,)."""
        return (output - target).abs().mean(-1)


def _each(loss: Any, output: Tensor, target: Tensor) -> Tensor:
    """A loss that averages over a batch, of each recording: (R, T) twice -> (R,)."""
    pairs = zip(output[:, None, None], target[:, None, None], strict=True)
    return torch.stack([loss(ours, theirs) for ours, theirs in pairs])
