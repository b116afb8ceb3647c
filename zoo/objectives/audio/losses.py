"""Distances of waveforms: on mel bands, on spectra and on samples. All take (output, target) and give a () tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.objectives.audio.spectrum import STFT, MelSpectrogram, Waveform, full_precision

__all__ = ["MelLoss", "SISDRLoss", "STFTLoss", "WaveformLoss"]


class MelLoss(nn.Module):
    """Distance of mel spectra at one or several resolutions.

    For each window, with M magnitudes in mel bands and L = log(max(M, floor)):

        log_l1 * mean|L - L'| + log_l2 * mean (L - L')^2 + magnitude_l1 * mean|M - M'|

    The default is descript-audio-codec's published loss (arXiv 2306.06546, section 3.4). WavTokenizer's and Vocos' has
    one window, [1024], [100] bands of the HTK scale, natural logarithms and a floor of 1e-7. EnCodec's (arXiv
    2210.13438, Eq. 2) has windows of 32 to 2048 samples with 64 bands each, normalized spectra, magnitude_l1, log_l2
    and the mean over windows; its squared term is on logarithms as in the work that it follows, arXiv 2008.01160.

    Args:
        sample_rate: Hz.
        windows: samples of each window; hops are a quarter.
        bands: mel bands of each window.
        scale: "slaney" with filters of area 1, or "htk" with filters of height 1.
        low: lower edge of the lowest band, Hz.
        high: upper edge of the highest band, Hz; None for half the sample rate.
        base: of the logarithm: 10, or "e".
        power: to which magnitudes are raised after the floor, under the logarithm only.
        floor: smallest magnitude under the logarithm.
        log_l1: weight of the absolute difference of logarithms.
        log_l2: weight of their squared difference.
        magnitude_l1: weight of the absolute difference of magnitudes.
        normalized: divide spectra by the root of the window's energy.
        reduction: "sum" or "mean" over windows.

    Raises:
        ValueError: windows and bands differ in number, or an option is unknown.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
        bands: Sequence[int] = (5, 10, 20, 40, 80, 160, 320),
        *,
        scale: Literal["htk", "slaney"] = "slaney",
        low: float = 0.0,
        high: float | None = None,
        base: Literal[10, "e"] = 10,
        power: float = 1.0,
        floor: float = 1e-5,
        log_l1: float = 1.0,
        log_l2: float = 0.0,
        magnitude_l1: float = 0.0,
        normalized: bool = False,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        if len(windows) != len(bands) or not windows:
            raise ValueError(f"MelLoss expects as many windows as bands, got {list(windows)} and {list(bands)}")
        if base not in (10, "e") or reduction not in ("sum", "mean") or floor <= 0:
            raise ValueError(
                "MelLoss expects base 10 or e, reduction sum or mean, and floor above 0; "
                f"got {base!r}, {reduction!r}, {floor}"
            )
        self.spectra = nn.ModuleList(
            MelSpectrogram(sample_rate, n_fft, count, scale=scale, low=low, high=high, normalized=normalized)
            for n_fft, count in zip(windows, bands, strict=True)
        )
        self.floor = floor
        self.stretch = power / (math.log(10) if base == 10 else 1.0)
        self.log_l1, self.log_l2, self.magnitude_l1 = log_l1, log_l2, magnitude_l1
        self.share = 1 / len(windows) if reduction == "mean" else 1.0

    def forward(self, output: Waveform | Tensor, target: Waveform | Tensor) -> Tensor:
        """Waveforms (B, C, T) -> () float32."""
        output, target = Waveform.of(output), Waveform.of(target)
        with full_precision(output.samples):
            return self.share * torch.stack([self._at(mel, output, target) for mel in self.spectra]).sum()

    def _at(self, mel: nn.Module, output: Waveform, target: Waveform) -> Tensor:
        ours, theirs = mel(output), mel(target)
        loss = ours.new_zeros(())
        if self.magnitude_l1:
            loss = loss + self.magnitude_l1 * F.l1_loss(ours, theirs)
        if self.log_l1 or self.log_l2:
            gap = (ours.clamp_min(self.floor).log() - theirs.clamp_min(self.floor).log()) * self.stretch
            if self.log_l1:
                loss = loss + self.log_l1 * gap.abs().mean()
            if self.log_l2:
                loss = loss + self.log_l2 * gap.square().mean()
        return loss


class STFTLoss(nn.Module):
    """Sum over windows of log_weight * mean|log10 m^2 - log10 m'^2| + magnitude_weight * mean|m - m'| of magnitudes m.

    The default is `MultiScaleSTFTLoss` of descript-audio-codec.

    Args:
        windows: samples of each Hann window; hops are a quarter.
        log_weight: of the difference of logarithms.
        magnitude_weight: of the difference of magnitudes.
        floor: smallest magnitude under the logarithm.
    """

    def __init__(
        self,
        windows: Sequence[int] = (2048, 512),
        *,
        log_weight: float = 1.0,
        magnitude_weight: float = 1.0,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        if not windows or floor <= 0:
            raise ValueError(f"STFTLoss expects a window and a floor above 0, got {list(windows)} and {floor}")
        self.spectra = nn.ModuleList(STFT(window) for window in windows)
        self.log_weight, self.magnitude_weight, self.floor = log_weight, magnitude_weight, floor

    def forward(self, output: Waveform | Tensor, target: Waveform | Tensor) -> Tensor:
        """Waveforms (B, C, T) -> () float32."""
        output, target = Waveform.of(output), Waveform.of(target)
        losses = []
        with full_precision(output.samples):
            for stft in self.spectra:
                assert isinstance(stft, STFT)
                ours, theirs = stft.magnitude(output), stft.magnitude(target)
                gap = ours.clamp_min(self.floor).log10() - theirs.clamp_min(self.floor).log10()
                losses.append(self.log_weight * 2 * gap.abs().mean())
                losses.append(self.magnitude_weight * F.l1_loss(ours, theirs))
        return torch.stack(losses).sum()


class WaveformLoss(nn.Module):
    """Mean absolute or squared difference of samples.

    Args:
        order: 1 or 2.
    """

    def __init__(self, order: Literal[1, 2] = 1) -> None:
        super().__init__()
        if order not in (1, 2):
            raise ValueError(f"order is 1 or 2, got {order}")
        self.distance = F.l1_loss if order == 1 else F.mse_loss

    def forward(self, output: Waveform | Tensor, target: Waveform | Tensor) -> Tensor:
        """Waveforms (B, C, T) -> () float32."""
        return self.distance(Waveform.of(output).samples, Waveform.of(target).samples)


class SISDRLoss(nn.Module):
    """Negative scale-invariant signal-to-distortion ratio in dB, averaged over recordings (arXiv 1811.02508)."""

    def forward(self, output: Waveform | Tensor, target: Waveform | Tensor) -> Tensor:
        """Waveforms (B, C, T) -> () float32."""
        return -si_sdr(Waveform.of(output).samples, Waveform.of(target).samples).mean()


def si_sdr(output: Tensor, target: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Scale-invariant signal-to-distortion ratio after removal of means (arXiv 1811.02508, Eq. 5).

    Args:
        output: (..., T) float.
        target: (..., T) float.
        eps: added to energies, so that silence is finite.

    Returns:
        (...) dB.
    """
    output = output - output.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    scale = ((output * target).sum(-1, keepdim=True) + eps) / (target.square().sum(-1, keepdim=True) + eps)
    part = scale * target
    return 10 * ((part.square().sum(-1) + eps) / ((output - part).square().sum(-1) + eps)).log10()
