"""Ratios of signal to distortion, as sounds come or after the best whole delay between them is undone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.metrics.recordings import RecordingMean

__all__ = ["SDR", "SISDR", "best_delay"]


class SISDR(RecordingMean):
    """Scale-invariant signal-to-distortion ratio in dB (arXiv 1811.02508); higher is better. Silence is skipped.

    A sample of delay costs many dB, and some codecs have a constant one: DAC at 16 and 24 kHz answers 8 samples early.
    With a `window`, every recording is measured at its own best whole delay (`best_delay`), over the samples that both
    then have.

    Args:
        sample_rate: Hz.
        window: seconds of delay that are undone, either way; 0 for none.
        rate: Hz to resample to; None to leave it.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: a negative window.
    """

    higher_is_better = True

    def __init__(self, sample_rate: int, *, window: float = 0.0, rate: int | None = None, **kwargs: Any) -> None:
        super().__init__(sample_rate, rate=rate, **kwargs)
        if window < 0:
            raise ValueError(f"window is 0 or more seconds, got {window}")
        self.window = window

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Ratio of each recording: (R, T) twice -> (R,); NaN for a constant target."""
        from zoo.objectives.audio.losses import si_sdr

        varies = target.amax(-1) > target.amin(-1)
        most = min(round(self.window * self.rate), target.shape[-1] // 2)
        if most == 0:
            return torch.where(varies, si_sdr(output, target), torch.nan)
        pairs = zip(output, target, best_delay(output, target, most).tolist(), strict=True)
        found = [si_sdr(*shifted(ours, theirs, delay)) for ours, theirs, delay in pairs]
        return torch.where(varies, torch.stack(found), torch.nan)

    def details(self) -> dict[str, Any]:
        """The rate, and the delay that is undone."""
        return {**super().details(), "window_seconds": self.window}


class SDR(RecordingMean):
    """Power of the original over that of the difference, in dB, nothing scaled or aligned; higher is better.

    Other names of it are SNR and, with a filter of one tap, BSS-eval's SDR. Silent targets are skipped; equal
    recordings have 100 dB at most.

    Args:
        sample_rate: Hz.
        rate: Hz to resample to; None to leave it.
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Ratio of each recording: (R, T) twice -> (R,); NaN for a silent target."""
        power = target.double().square().sum(-1)
        noise = (output - target).double().square().sum(-1)
        return torch.where(power > 0, 10 * (power / noise.clamp_min(1e-10 * power)).log10(), torch.nan)


def best_delay(output: Tensor, target: Tensor, most: int) -> Tensor:
    """By how many samples the output is late: where both are most alike up to a factor.

    The delay d maximises (sum_t output[t + d] target[t])^2 / (sum_t output[t + d]^2 * sum_t target[t]^2), with sums
    over the t at which both exist: what SI-SDR grows with, but for means.

    Args:
        output, target: (R, T) float.
        most: samples of delay that are looked at, either way; less than T.

    Returns:
        (R,) int64 in [-most, most]; negative where the output is early, 0 where either is silent.
    """
    length = target.shape[-1]
    ours, theirs = output.double(), target.double()
    size = 2 * length
    spectrum = torch.fft.rfft(ours, size) * torch.fft.rfft(theirs, size).conj()
    products = torch.fft.irfft(spectrum, size)
    delays = torch.arange(-most, most + 1, device=target.device)
    alike = products[:, delays % size]
    alike = alike.square() / (_shared(ours, delays) * _shared(theirs, -delays)).clamp_min(1e-30)
    # The nearest to 0 among equals: silence has no delay.
    order = delays.abs().argsort(stable=True)
    return delays[order[alike[:, order].argmax(-1)]]


def shifted(output: Tensor, target: Tensor, delay: int) -> tuple[Tensor, Tensor]:
    """The samples of both (..., T) that lie over each other once the output is taken back by `delay`."""
    length = target.shape[-1] - abs(delay)
    start = max(0, delay)
    return output[..., start : start + length], target[..., start - delay : start - delay + length]


def _shared(x: Tensor, delays: Tensor) -> Tensor:
    """(R, T) -> (R, delays): energy of x[d:] for delays d from 0, of x[:d] for negative ones."""
    energy = torch.nn.functional.pad(x.square().cumsum(-1), (1, 0))
    after = energy[:, -1:] - energy[:, delays.clamp_min(0)]
    before = energy[:, x.shape[-1] + delays.clamp_max(0)]
    return torch.where(delays >= 0, after, before)
