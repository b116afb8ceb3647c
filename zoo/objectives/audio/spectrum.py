"""Spectra of waveforms in float32, computed once per waveform and resolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.fixed import Fixed
from encoders.layers.mel_filters import mel_filters

__all__ = ["STFT", "MelSpectrogram", "Waveform", "full_precision"]


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """Within, autocast leaves operations on the device of `x` in float32."""
    return torch.autocast(x.device.type, enabled=False)


class Waveform:
    """A waveform, with the results that several losses and critics ask of it kept.

    Args:
        samples: (B, C, T) in [-1, 1]; held as float32.

    Raises:
        ValueError: not (B, C, T).
    """

    def __init__(self, samples: Tensor) -> None:
        if samples.ndim != 3 or not samples.is_floating_point():
            raise ValueError(
                f"audio losses and critics expect float waveforms (B, C, T), got {samples.dtype} "
                f"{tuple(samples.shape)}; add the channel axis with x[:, None]"
            )
        self.samples = samples.float()
        self._kept: dict[tuple[object, ...], Tensor] = {}
        self._derived: dict[tuple[object, bool], Waveform] = {}

    def derive(self, key: object, make: Callable[[Tensor], Tensor]) -> Waveform:
        """The waveform that `make` makes of the samples, kept under `key`."""
        place = (key, torch.is_grad_enabled() and self.samples.requires_grad)
        if place not in self._derived:
            self._derived[place] = Waveform(make(self.samples))
        return self._derived[place]

    def get(self, key: tuple[object, ...], make: Callable[[], Tensor]) -> Tensor:
        """What was kept under `key`, or what `make` returns, which then is kept.

        Results with and without gradient are kept apart: one made under `no_grad` serves nothing that learns.
        """
        key = (*key, torch.is_grad_enabled() and self.samples.requires_grad)
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def detach(self) -> Waveform:
        """The same waveform and kept results, without gradient."""
        other = Waveform(self.samples.detach())
        other._kept = {(*key[:-1], False): value.detach() for key, value in self._kept.items()}
        other._derived = {(key[0], False): wave.detach() for key, wave in self._derived.items()}
        return other

    @staticmethod
    def of(x: Waveform | Tensor) -> Waveform:
        """A waveform as it is, or samples (B, C, T) as one."""
        return x if isinstance(x, Waveform) else Waveform(x)


@dataclass(frozen=True)
class Resolution:
    """What makes two short-time transforms the same; see `STFT`."""

    n_fft: int
    hop: int
    window: str
    padding: str
    normalized: bool


class STFT(nn.Module):
    """Short-time Fourier transform, always in float32.

    Args:
        n_fft: window and transform, samples.
        hop: samples between frames; None for a quarter of the window.
        window: "hann" (periodic) or "none" for a rectangular one.
        padding: "center" reflects half a window at both ends, T // hop + 1 frames; "stride" reflects so that frames
            number ceil(T / hop), as descript-audio-codec's `match_stride`; "none" takes whole windows only.
        normalized: divide by the root of the window's energy.
    """

    def __init__(
        self,
        n_fft: int,
        hop: int | None = None,
        *,
        window: Literal["hann", "none"] = "hann",
        padding: Literal["center", "stride", "none"] = "center",
        normalized: bool = False,
    ) -> None:
        super().__init__()
        hop = n_fft // 4 if hop is None else hop
        if window not in ("hann", "none") or padding not in ("center", "stride", "none"):
            raise ValueError(
                f"STFT expects window hann or none and padding center, stride or none, got {window!r} and {padding!r}"
            )
        if hop < 1 or (padding == "stride" and n_fft != 4 * hop):
            raise ValueError(f"STFT expects hop >= 1, and n_fft / 4 with padding='stride'; got {hop} for {n_fft}")
        self.resolution = Resolution(n_fft, hop, window, padding, normalized)
        # In float64 first: small taps of a float32 window are off by 1e-5 of their size, and so are gradients there.
        taps = partial(torch.hann_window, dtype=torch.float64) if window == "hann" else torch.ones
        self.window = Fixed(lambda: taps(n_fft).float())

    def forward(self, x: Waveform | Tensor) -> Tensor:
        """(B, C, T) -> complex (B, C, n_fft // 2 + 1, frames); one too short for a frame is extended by zeros."""
        wave = Waveform.of(x)
        return wave.get((self.resolution,), lambda: self._transform(wave.samples))

    def magnitude(self, x: Waveform | Tensor) -> Tensor:
        """(B, C, T) -> (B, C, n_fft // 2 + 1, frames) >= 0; its gradient is 0 where it is 0."""
        wave = Waveform.of(x)
        return wave.get((self.resolution, "magnitude"), lambda: self(wave).abs())

    def _transform(self, x: Tensor) -> Tensor:
        settings = self.resolution
        n_fft, hop = settings.n_fft, settings.hop
        least = n_fft // 2 + 1 if settings.padding == "center" else n_fft
        if x.shape[-1] < least:
            x = F.pad(x, (0, least - x.shape[-1]))
        if settings.padding == "stride":
            right = math.ceil(x.shape[-1] / hop) * hop - x.shape[-1]
            margin = (n_fft - hop) // 2
            x = F.pad(x, (margin, margin + right), mode="reflect")
        with full_precision(x):
            found = torch.stft(
                x.flatten(0, 1),
                n_fft,
                hop,
                window=self.window(x.device),
                center=settings.padding != "none",
                pad_mode="reflect",
                return_complex=True,
            )
        if settings.padding == "stride":
            found = found[..., 2:-2]
        if settings.normalized:
            found = found / self.window(x.device).square().sum().sqrt()
        return found.unflatten(0, x.shape[:2])


class MelSpectrogram(nn.Module):
    """Magnitudes in mel bands, float32.

    Args:
        sample_rate: Hz.
        n_fft: window, samples.
        bands: number M of mel bands.
        hop: samples between frames; None for a quarter of the window.
        scale: "htk" with filters of height 1, or "slaney" with filters of area 1 (as in librosa).
        low: lower edge of the lowest band, Hz.
        high: upper edge of the highest band, Hz; None for half the sample rate.
        normalized: divide spectra by the root of the window's energy.
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 1024,
        bands: int = 100,
        *,
        hop: int | None = None,
        scale: Literal["htk", "slaney"] = "htk",
        low: float = 0.0,
        high: float | None = None,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.stft = STFT(n_fft, hop, normalized=normalized)
        area = scale == "slaney"
        self.filters = Fixed(lambda: mel_filters(sample_rate, n_fft, bands, low=low, high=high, scale=scale, area=area))

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return self.stft.resolution.hop

    def forward(self, x: Waveform | Tensor) -> Tensor:
        """(B, C, T) -> (B, C, M, T // hop + 1) >= 0."""
        magnitude = self.stft.magnitude(x)
        with full_precision(magnitude):
            return self.filters(magnitude.device) @ magnitude
