"""Log-mel spectra as an encoder that learns nothing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.fixed import Fixed
from encoders.layers.masked import blank
from encoders.layers.mel_filters import mel_filters
from encoders.layers.stft import Framing, frame_offset, reflect
from encoders.layers.streaming import Stream

__all__ = ["MelEncoder"]


class MelEncoder(nn.Module):
    """log(max(mel, floor)) of magnitude spectra: HTK scale, filters of height 1, Hann window (torchaudio's defaults).

    Frame n belongs to the samples from n * hop_length on, so that T samples have ceil(T / hop_length) frames. All
    arithmetic is in float32.

    Args:
        sample_rate: Hz.
        dim: number D of mel bands.
        frame: samples of a window.
        hop_length: samples from one frame to the next.
        framing: "center": frame n is centred on sample n * hop_length; "same": on the middle of its hop.
        floor: least value before the logarithm.
        edges: what stands beyond the signal: "reflect", its mirror image, or "constant", zeros.

    Attributes:
        channels: 1.
        streams: with zeros beyond the ends, frames come as soon as their samples are there.
        any_length: the sound need not be whole hops.
        context: samples before and behind its own hop that a frame reads.

    Raises:
        ValueError: a frame that does not overlap its neighbours.
    """

    def __init__(
        self,
        sample_rate: int,
        dim: int = 100,
        frame: int = 1024,
        hop_length: int = 256,
        framing: Framing = "center",
        floor: float = 1e-7,
        edges: Literal["reflect", "constant"] = "reflect",
    ) -> None:
        super().__init__()
        self.sample_rate, self.dim, self.frame, self.hop_length = sample_rate, dim, frame, hop_length
        if edges not in ("reflect", "constant"):
            raise ValueError(f"edges are 'reflect' or 'constant', got {edges!r}")
        self.any_length, self.edges, self.streams = True, edges, edges == "constant"
        self.offset, self.floor, self.channels = frame_offset(frame, hop_length, framing), floor, 1
        self.context: tuple[int, int] | None = (self.offset, frame - self.offset - hop_length)
        self.window = Fixed(lambda: torch.hann_window(frame))
        self.filters = Fixed(lambda: mel_filters(sample_rate, frame, dim).T.contiguous())

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """Mel spectra.

        Args:
            x: (B, 1, T) in [-1, 1], any T >= 1.
            lengths: (B,) int64 real samples of each item, whose spectra are those of the item alone; None for all.
            stream: continues a sound, if edges are constant.

        Returns:
            (B, ceil(T / hop_length), dim), of the dtype of x.
        """
        if stream is not None:
            return self._continue(x, stream)
        count = -(-x.shape[-1] // self.hop_length)
        right = max((count - 1) * self.hop_length + self.frame - self.offset - x.shape[-1], 0)
        signal = x[:, 0].float()
        if self.edges == "reflect":
            signal = reflect(signal, self.offset, right, lengths)
        else:
            signal = F.pad(signal if lengths is None else blank(x, lengths)[:, 0].float(), (self.offset, right))
        return self._frames(signal)[:, :count].to(x.dtype)

    def _continue(self, x: Tensor, stream: Stream) -> Tensor:
        """The frames that x (B, 1, t) completes; at the last piece all that the sound still has, behind it zeros."""
        if not self.streams:
            raise ValueError("a mel spectrum with mirrored edges cannot stream; build it with edges='constant'")
        signal, due = x[:, 0].float(), x.shape[-1]
        kept = stream.get(self)
        if kept is None:
            signal = F.pad(signal, (self.offset, 0))
        else:  # samples that later frames read, and how many heard samples have no frame yet
            signal, due = torch.cat((kept[0], signal), dim=-1), due + kept[1]
        count = max((signal.shape[-1] - self.frame) // self.hop_length + 1, 0)
        if stream.last:
            count = max(-(-due // self.hop_length), 0)
            signal = F.pad(signal, (0, max((count - 1) * self.hop_length + self.frame - signal.shape[-1], 0)))
        stream.put(self, (signal[:, count * self.hop_length :].clone(), due - count * self.hop_length))
        if count == 0:
            return x.new_zeros(len(x), 0, self.dim)
        return self._frames(signal)[:, :count].to(x.dtype)

    def _frames(self, signal: Tensor) -> Tensor:
        """Spectra of all whole windows of signal (B, t) float32."""
        spectrum = torch.stft(
            signal, self.frame, self.hop_length, window=self.window(signal.device), center=False, return_complex=True
        )
        bands = spectrum.abs().mT @ self.filters(signal.device)
        return bands.clamp_min(self.floor).log()

    def extra_repr(self) -> str:
        return f"sample_rate={self.sample_rate}, dim={self.dim}, frame={self.frame}, hop_length={self.hop_length}"
