"""Heads that make samples of features at the frame rate by an inverse transform."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from encoders.layers.fixed import Fixed
from encoders.layers.stft import Framing, InverseSTFT, OverlapAdd
from encoders.layers.streaming import Stream
from encoders.layers.time_conv import blank_steps

__all__ = ["IMDCTHead", "ISTFTHead"]

LOUDEST = 100.0  # magnitudes and coefficients are cut here


class ISTFTHead(nn.Module):
    """Magnitudes and phases of a short-time Fourier transform, and its inverse (Vocos, arXiv 2306.00814, Sec. 3.3).

    One linear map gives log-magnitudes m and phases p; min(exp(m), 100) (cos p + i sin p) is transformed back. The
    arithmetic behind the map, and the samples, are float32.

    Args:
        width: of the features.
        hop_length: samples of a frame.
        frame: samples of a window; None for four hops.
        framing: "same": frame n gives the samples that its window is centred on; "center": its window is centred on
            sample n * hop_length.
        channels: C of the signal.

    Attributes:
        context: frames before and behind its own that a hop of samples depends on.

    Raises:
        ValueError: a window that does not overlap its neighbours.
    """

    def __init__(
        self, width: int, hop_length: int, frame: int | None = None, framing: Framing = "same", channels: int = 1
    ) -> None:
        super().__init__()
        frame = 4 * hop_length if frame is None else frame
        self.width, self.hop_length, self.channels = width, hop_length, channels
        self.istft = InverseSTFT(frame, hop_length, framing)
        self.context = self.istft.context
        self.out = nn.Linear(width, channels * (frame + 2))

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """x (B, N, width), lengths (B,) real frames or None for all -> (B, C, N * hop_length), zeros past an end.

        With a stream: the samples that have become final.
        """
        x = rearrange(self.out(x), "b n (c f) -> (b c) n f", c=self.channels).float()
        log_magnitude, phase = x.chunk(2, dim=-1)
        magnitude = log_magnitude.exp().clamp_max(LOUDEST)
        if lengths is not None:
            lengths = lengths.repeat_interleave(self.channels)
        samples = self.istft(torch.polar(blank_steps(magnitude, lengths), phase), lengths, stream)
        return rearrange(samples, "(b c) t -> b c t", c=self.channels)


class IMDCTHead(nn.Module):
    """Coefficients of a modified discrete cosine transform, and its inverse (Vocos' variant without phases).

    One linear map gives a; sign(a) (exp(|a|) - 1), cut to [-100, 100], are the coefficients. A sine window and frames
    of two hops cancel the aliasing. The arithmetic behind the map, and the samples, are float32.

    Args:
        width: of the features.
        hop_length: samples of a frame, and coefficients.
        framing: as in `ISTFTHead`.
        sample_rate: Hz; if given, high coefficients start smaller: row k is scaled by 1 - f_k / f_max, where f_k are
            frequencies at even distances on the mel scale.
        channels: C of the signal.

    Attributes:
        context: frames before and behind its own that a hop of samples depends on.
    """

    def __init__(
        self,
        width: int,
        hop_length: int,
        framing: Framing = "same",
        sample_rate: int | None = None,
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.width, self.hop_length, self.channels = width, hop_length, channels
        self.basis = Fixed(lambda: cosine_basis(hop_length))
        self.add = OverlapAdd(2 * hop_length, hop_length, framing)
        self.context = self.add.context
        self.out = nn.Linear(width, channels * hop_length)
        if sample_rate is not None:
            with torch.no_grad():
                self.out.weight.mul_(falling(hop_length, sample_rate).to(self.out.weight).repeat(channels)[:, None])

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """x (B, N, width), lengths (B,) real frames or None for all -> (B, C, N * hop_length).

        With a stream: the samples that have become final.
        """
        x = rearrange(self.out(x), "b n (c f) -> (b c) n f", c=self.channels).float()
        coefficients = (x.sign() * x.abs().expm1()).clamp(-LOUDEST, LOUDEST)
        if lengths is not None:
            lengths = lengths.repeat_interleave(self.channels)
        samples = self.add(blank_steps(coefficients, lengths) @ self.basis(x.device), lengths, stream)
        return rearrange(samples, "(b c) t -> b c t", c=self.channels)


def cosine_basis(hop: int) -> Tensor:
    """(hop, 2 hop) float32: windowed cosines of the inverse MDCT, scaled to be its own inverse."""
    time = torch.arange(2 * hop, dtype=torch.float64) + 0.5
    frequency = torch.arange(hop, dtype=torch.float64)[:, None] + 0.5
    window = torch.sin(math.pi / (2 * hop) * time)
    return (math.sqrt(2 / hop) * window * torch.cos(math.pi / hop * (time + hop / 2) * frequency)).float()


def falling(count: int, sample_rate: int) -> Tensor:
    """(count,) from 1 down to 0: 1 - f / f_max at even distances on the (HTK) mel scale up to half the sample rate."""
    top = 2595 * math.log10(1 + sample_rate // 2 / 700)
    hertz = 700 * (10 ** (torch.linspace(0, top, count) / 2595) - 1)
    return 1 - hertz / hertz[-1]
