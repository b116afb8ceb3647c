"""Whisper's picture of speech: the logarithm of a mel spectrum, floored and scaled clip by clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from encoders.layers.fixed import Fixed
from encoders.layers.masked import blank, past
from encoders.layers.mel_filters import mel_filters
from encoders.layers.stft import reflect

__all__ = ["LogMel"]

Count = TypeVar("Count", int, Tensor)


class LogMel(nn.Module):
    """Log-mel spectra as Whisper computes them (arXiv 2212.04356, Sec. 2.2), in float32 whatever the input.

        y = log10(max(mel power, 1e-10)),    output = (max(y, max(y) - 8) + 4) / 4

    the maximum being that of the clip's own real frames, so that a clip has the same spectrum in any batch. A frame is
    centred on every `hop_length`-th sample, with the clip mirrored at both ends.

    Args:
        bands: number M of mel bands, evenly spaced on Slaney's scale.
        sample_rate: Hz.
        window: samples of a frame, under a Hann window.
        hop_length: samples from one frame to the next.
    """

    def __init__(self, bands: int = 128, *, sample_rate: int = 16000, window: int = 400, hop_length: int = 160) -> None:
        super().__init__()
        self.bands, self.window, self.hop_length = bands, window, hop_length
        self.hann = Fixed(lambda: torch.hann_window(window))
        self.filters = Fixed(lambda: mel_filters(sample_rate, window, bands, scale="slaney", area=True))

    def count(self, samples: Count) -> Count:
        """Frames of a clip: one for each whole hop, but at least one."""
        frames = samples // self.hop_length
        return frames.clamp_min(1) if isinstance(frames, Tensor) else max(frames, 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, T) and real samples (B,) int64, None for all -> (B, M, count(T)) float32, zeros past a clip's end."""
        frames = self.count(x.shape[-1])
        real = None if lengths is None else self.count(lengths)
        log = self._log(reflect(x.float(), self.window // 2, self.window // 2, lengths), frames)
        heard = log if real is None else log.masked_fill(past(real, frames)[:, None], -torch.inf)
        return blank(self.scaled(log, heard.amax((1, 2), keepdim=True)), real)

    def stretch(self, read: Callable[[int, int], Tensor], samples: int, first: int, last: int) -> Tensor:
        """log10 of the mel power of frames `first` to `last` of a long clip: (B, M, last - first) float32.

        Args:
            read: gives samples start to stop of the clip, (B, stop - start).
            samples: of the clip.
            first, last: frames.
        """
        margin = self.window // 2
        start, stop = first * self.hop_length - margin, (last - 1) * self.hop_length + margin
        x = read(max(start, 0), min(stop, samples)).float()
        return self._log(reflect(x, max(-start, 0), max(stop - samples, 0)), last - first)

    def scaled(self, log: Tensor, loudest: Tensor) -> Tensor:
        """What `forward` makes of log10 of the mel power (B, M, F) whose maxima are `loudest` (B, 1, 1)."""
        return (torch.maximum(log, loudest - 8) + 4) / 4

    def _log(self, x: Tensor, frames: int) -> Tensor:
        """x (B, T) with half a window before the first and behind the last frame -> (B, M, frames)."""
        hann = self.hann(x.device)
        spectrum = torch.stft(x, self.window, self.hop_length, window=hann, center=False, return_complex=True)
        return (self.filters(x.device) @ spectrum[..., :frames].abs().square()).clamp_min(1e-10).log10()
