"""DNSMOS: opinion scores of speech, by the networks inside the package speechmos."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from encoders.layers.mel_filters import mel_filters
from zoo.metrics.recordings import RecordingMean, require
from zoo.metrics.weights import digest_of

__all__ = ["DNSMOS", "opinion_scores"]

RATE = 16000
WINDOW = int(9.01 * RATE)
# From raw to published P.835 scores: quadratic, linear and constant coefficient of overall, signal and background.
FITS = (
    (-0.06766283, 1.11546468, 0.04602535),
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
)
MELS, N_FFT, HOP = 120, 321, 160


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
        require("DNSMOS", "speech", "speechmos", "onnxruntime")
        super().__init__(sample_rate, rate=RATE, **kwargs)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Scores of each recording: (R, T) -> (R, 4)."""
        return opinion_scores(output)

    def details(self) -> dict[str, Any]:
        """The rate, and the digests of the networks."""
        return {**super().details(), "sha256": {path.name: digest_of(path) for path in _files()}}


def opinion_scores(x: Tensor) -> Tensor:
    """Scores of recordings at 16 kHz.

    Args:
        x: (R, T) float32 in [-1, 1].

    Returns:
        (R, 4) float64: overall, signal and background (P.835, arXiv 2110.01763), P.808 (arXiv 2010.15258).
    """
    return torch.stack([_score(recording) for recording in x.cpu().float()])


def _score(x: Tensor) -> Tensor:
    while len(x) < WINDOW:
        x = x.repeat(2)
    # As published: the windows are counted in whole seconds.
    count = max(1, len(x) // RATE - 9)
    windows = torch.stack([x[start * RATE : start * RATE + WINDOW] for start in range(count)])
    primary, p808 = _networks()
    scores = []
    for window in windows:
        signal, background, overall = primary.run(None, {"input_1": window[None].numpy()})[0][0].tolist()
        raw = (overall, signal, background)
        fitted = [(a * value + b) * value + c for value, (a, b, c) in zip(raw, FITS, strict=True)]
        features = _features(window[:-HOP])[None].numpy()
        scores.append([*fitted, p808.run(None, {"input_1": features})[0].item()])
    return torch.tensor(scores, dtype=torch.float64).mean(0)


def _features(x: Tensor) -> Tensor:
    """(T,) -> (T // 160 + 1, 120): powers in mel bands, in dB below the loudest, mapped so that -80 to 0 is -1 to 1."""
    spectrum = torch.stft(
        F.pad(x, (N_FFT // 2, N_FFT // 2)),
        N_FFT,
        HOP,
        window=torch.hann_window(N_FFT),
        center=False,
        return_complex=True,
    )
    power = _filters() @ spectrum.abs().square()
    decibels = 10 * power.clamp_min(1e-10).log10()
    decibels = (decibels - decibels.max()).clamp_min(-80)
    return ((decibels + 40) / 40).T.contiguous()


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    return mel_filters(RATE, N_FFT, MELS, scale="slaney", area=True)


@lru_cache(maxsize=1)
def _networks() -> tuple[Any, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    found = [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in _files()]
    return found[0], found[1]


def _files() -> tuple[Path, Path]:
    """Found, not imported: the package's own code needs librosa, which these networks do not."""
    place = importlib.util.find_spec("speechmos")
    if place is None or not place.submodule_search_locations:
        raise ModuleNotFoundError("DNSMOS needs speechmos: pip install tokenizer-zoo[speech]")
    folder = Path(next(iter(place.submodule_search_locations))) / "dnsmos_models"
    return folder / "sig_bak_ovr.onnx", folder / "model_v8.onnx"
