"""Quality and intelligibility of speech beside its original: PESQ and STOI, by the packages of those names."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.metrics.recordings import RecordingMean, require

__all__ = ["PESQ", "STOI"]


class STOI(RecordingMean):
    """Short-time objective intelligibility of speech, at most 1 (Taal et al. 2011); higher is better.

    Computed by `pystoi`. Silent targets, and those with less than about 0.4 seconds of sound, are skipped.

    Args:
        sample_rate: Hz; the measure itself works at 10 kHz.
        extended: the variant for fluctuating noise (ESTOI).
        rate: Hz to which sounds are brought before; None leaves all resampling to pystoi.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ModuleNotFoundError: pystoi is not installed.
    """

    higher_is_better = True

    def __init__(self, sample_rate: int, *, extended: bool = False, rate: int | None = None, **kwargs: Any) -> None:
        require("STOI", "speech", "pystoi")
        super().__init__(sample_rate, rate=rate, **kwargs)
        self.extended = extended

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Intelligibility of each recording: (R, T) twice -> (R,); NaN without enough sound."""
        pairs = zip(output.cpu().numpy(), target.cpu().numpy(), strict=True)
        return torch.tensor([self._score(*pair) for pair in pairs])

    def _score(self, output: np.ndarray, target: np.ndarray) -> float:
        from pystoi import stoi

        # 0.1 s: pystoi cannot even cut frames out of less.
        if not target.any() or len(target) < self.rate / 10:
            return math.nan
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
            try:
                return float(stoi(target, output, self.rate, extended=self.extended))
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
        require("PESQ", "speech", "pesq")
        rate, self.mode, self.lowest = (16000, "wb", 1.0427) if band == "wide" else (8000, "nb", 1.0168)
        super().__init__(sample_rate, rate=rate, **kwargs)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Quality of each recording: (R, T) twice -> (R,); NaN without speech in the target."""
        pairs = zip(output.cpu().numpy(), target.cpu().numpy(), strict=True)
        return torch.tensor([self._score(*pair) for pair in pairs])

    def details(self) -> dict[str, Any]:
        """The rate and the band."""
        return {**super().details(), "band": {"wb": "wide", "nb": "narrow"}[self.mode]}

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
