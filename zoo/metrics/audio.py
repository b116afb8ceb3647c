"""Fidelity of reconstructed audio over a whole epoch and all ranks, as torchmetrics metrics.

All read waveforms (B, C, T) in [-1, 1]. A channel of a clip counts as one recording, a recording's padding is cut off
before it is measured, and every recording has the same share in the mean.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["DNSMOS", "PESQ", "SISDR", "STOI", "LogMelDistance"]

EXTRA = "pip install tokenizer-zoo[speech]"


class RecordingMean(Metric):
    """Mean of what every recording has one of; subclasses define `score`.

    Args:
        sample_rate: Hz of what is measured.
        **kwargs: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Attributes:
        names: of the numbers of one recording; empty where it is only one.
        count: () int64 recordings in the mean.
        skipped: () int64 recordings for which the measure is not defined, such as silence.
    """

    is_differentiable = False
    full_state_update = False
    names: tuple[str, ...] = ()

    total: Tensor
    count: Tensor
    skipped: Tensor

    def __init__(self, sample_rate: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if sample_rate < 1:
            raise ValueError(f"sample_rate is positive, got {sample_rate}")
        self.sample_rate = sample_rate
        self.add_state("total", torch.zeros(len(self.names) or 1, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("skipped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, lengths: Tensor | None = None) -> None:
        """Measure a batch.

        Args:
            output: (B, C, T), clamped to [-1, 1] as an audio file would.
            target: (B, C, T) in [-1, 1].
            lengths: (B,) int64 samples of each clip that are no padding; None for all.

        Raises:
            ValueError: shapes differ, or lengths do not fit.
        """
        output, target = _pair(output, target)
        for ours, theirs in _unpadded(output, target, lengths):
            values = self.score(ours, theirs).to(self.total).view(len(ours), -1)
            measured = values.isfinite().all(1)
            self.total += values[measured].sum(0)
            self.count += measured.sum()
            self.skipped += (~measured).sum()

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Numbers of each recording: (R, T) float32 twice -> (R,) or (R, names); not finite where undefined."""
        raise NotImplementedError(f"{type(self).__name__} must define score")

    def compute(self) -> Any:
        """Mean over the recordings, () float64, or one for each of `names`; NaN where nothing was measured."""
        means = self.total / self.count
        return dict(zip(self.names, means, strict=True)) if self.names else means[0]


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
        **kwargs: Any,
    ) -> None:
        from zoo.objectives.audio.spectrum import MelSpectrogram

        super().__init__(sample_rate, **kwargs)
        self.floor = floor
        self.mel = MelSpectrogram(sample_rate, n_fft, bands, hop=hop)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of each recording: (R, T) twice -> (R,)."""
        ours, theirs = (self.mel(x[:, None]).clamp_min(self.floor).log() for x in (output, target))
        return (ours - theirs).abs().mean((1, 2, 3))


class SISDR(RecordingMean):
    """Scale-invariant signal-to-distortion ratio in dB (arXiv 1811.02508); higher is better. Silence is skipped.

    Args:
        sample_rate: Hz; without influence.
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Ratio of each recording: (R, T) twice -> (R,); NaN for a constant target."""
        from zoo.objectives.audio.losses import si_sdr

        varies = target.amax(-1) > target.amin(-1)
        return torch.where(varies, si_sdr(output, target), torch.nan)


class STOI(RecordingMean):
    """Short-time objective intelligibility of speech, at most 1 (Taal et al. 2011); higher is better.

    Computed by `pystoi`. Silent targets, and those with less than about 0.4 seconds of sound, are skipped.

    Args:
        sample_rate: Hz; the measure itself works at 10 kHz.
        extended: the variant for fluctuating noise (ESTOI).
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ModuleNotFoundError: pystoi is not installed.
    """

    higher_is_better = True

    def __init__(self, sample_rate: int, *, extended: bool = False, **kwargs: Any) -> None:
        _require("STOI", "pystoi")
        super().__init__(sample_rate, **kwargs)
        self.extended = extended

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Intelligibility of each recording: (R, T) twice -> (R,); NaN without enough sound."""
        return torch.tensor([self._score(*pair) for pair in zip(_arrays(output), _arrays(target), strict=True)])

    def _score(self, output: np.ndarray, target: np.ndarray) -> float:
        from pystoi import stoi

        # 0.1 s: pystoi cannot even cut frames out of less.
        if not target.any() or len(target) < self.sample_rate / 10:
            return math.nan
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
            try:
                return float(stoi(target, output, self.sample_rate, extended=self.extended))
            except RuntimeWarning:
                return math.nan


class PESQ(RecordingMean):
    """Perceptual evaluation of speech quality, 1.04 to 4.64 (ITU-T P.862.2); higher is better.

    Computed by `pesq` after resampling. Targets without speech are skipped; a silent output has the lowest score.

    Args:
        sample_rate: Hz.
        band: "wide" at 16 kHz, or "narrow" at 8 kHz (P.862.1, 1.02 to 4.55).
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ModuleNotFoundError: pesq is not installed.
        ValueError: unknown band.
    """

    higher_is_better = True

    def __init__(self, sample_rate: int, *, band: Literal["wide", "narrow"] = "wide", **kwargs: Any) -> None:
        if band not in ("wide", "narrow"):
            raise ValueError(f"band is wide or narrow, got {band!r}")
        _require("PESQ", "pesq")
        super().__init__(sample_rate, **kwargs)
        self.rate, self.mode, self.lowest = (16000, "wb", 1.0427) if band == "wide" else (8000, "nb", 1.0168)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Quality of each recording: (R, T) twice -> (R,); NaN without speech in the target."""
        output, target = (_resampled(x, self.sample_rate, self.rate) for x in (output, target))
        return torch.tensor([self._score(*pair) for pair in zip(_arrays(output), _arrays(target), strict=True)])

    def _score(self, output: np.ndarray, target: np.ndarray) -> float:
        value = self._measure(output, target)
        if math.isnan(value) and not math.isnan(self._measure(target, target)):
            return self.lowest
        return value

    def _measure(self, output: np.ndarray, target: np.ndarray) -> float:
        from pesq import PesqError, pesq

        try:
            with np.errstate(invalid="ignore"):
                return float(pesq(self.rate, target, output, self.mode))
        except (PesqError, ValueError):  # no utterance, too short, or a division by a silent output's level
            return math.nan


class DNSMOS(RecordingMean):
    """Opinion scores of speech, 1 to 5, predicted from the output alone (arXiv 2010.15258, 2110.01763).

    `compute` gives "overall", "signal" and "background" (P.835) and "p808". The networks are those inside the package
    `speechmos`; they read windows of 9.01 s, one second apart, of what was resampled to 16 kHz, and shorter recordings
    repeated. Targets are not looked at.

    Args:
        sample_rate: Hz.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ModuleNotFoundError: speechmos or onnxruntime is not installed.
    """

    higher_is_better = True
    names = ("overall", "signal", "background", "p808")

    def __init__(self, sample_rate: int, **kwargs: Any) -> None:
        _require("DNSMOS", "speechmos", "onnxruntime")
        super().__init__(sample_rate, **kwargs)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Scores of each recording: (R, T) -> (R, 4)."""
        from zoo.metrics.dnsmos import opinion_scores

        return opinion_scores(_resampled(output, self.sample_rate, 16000))


def _pair(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if output.shape != target.shape or output.ndim != 3:
        raise ValueError(
            f"expected two batches (B, C, T) of one shape, got {tuple(output.shape)}, {tuple(target.shape)}"
        )
    return output.detach().float().clamp(-1, 1), target.detach().float()


def _unpadded(output: Tensor, target: Tensor, lengths: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Recordings (R, t) of output and target, those of one length together where all have it."""
    full = output.shape[-1]
    if lengths is None:
        yield output.flatten(0, 1), target.flatten(0, 1)
        return
    counts = lengths.tolist()
    if len(counts) != len(output) or not all(0 < count <= full for count in counts):
        raise ValueError(f"expected {len(output)} lengths from 1 to {full}, got {counts}")
    for ours, theirs, count in zip(output, target, counts, strict=True):
        yield ours[:, :count], theirs[:, :count]


def _resampled(x: Tensor, rate: int, wanted: int) -> Tensor:
    from torchaudio.functional import resample

    return x if rate == wanted else resample(x, rate, wanted)


def _arrays(x: Tensor) -> Iterable[np.ndarray]:
    return x.cpu().numpy()


def _require(metric: str, *packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{metric} needs {' and '.join(missing)}: {EXTRA}")
