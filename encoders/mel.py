"""Log-mel spectra as an encoder that learns nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.layers.fixed import Fixed
from encoders.layers.mel_filters import mel_filters
from encoders.layers.stft import Framing, frame_offset, reflect

__all__ = ["MelEncoder"]


class MelEncoder(nn.Module):
    """log(max(mel, floor)) of magnitude spectra: HTK scale, filters of height 1, Hann window (torchaudio's defaults).

    Frame n belongs to the samples from n * hop_length on, so that T samples have ceil(T / hop_length) frames. What
    stands beyond the ends of the signal is its mirror image. All arithmetic is in float32.

    Args:
        sample_rate: Hz.
        dim: number D of mel bands.
        frame: samples of a window.
        hop_length: samples from one frame to the next.
        framing: "center": frame n is centred on sample n * hop_length; "same": on the middle of its hop.
        floor: least value before the logarithm.

    Attributes:
        channels: 1.
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
    ) -> None:
        super().__init__()
        self.sample_rate, self.dim, self.frame, self.hop_length = sample_rate, dim, frame, hop_length
        self.any_length = True
        self.offset, self.floor, self.channels = frame_offset(frame, hop_length, framing), floor, 1
        self.context: tuple[int, int] | None = (self.offset, frame - self.offset - hop_length)
        self.window = Fixed(lambda: torch.hann_window(frame))
        self.filters = Fixed(lambda: mel_filters(sample_rate, frame, dim).T.contiguous())

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mel spectra.

        Args:
            x: (B, 1, T) in [-1, 1], any T >= 1.
            lengths: (B,) int64 real samples of each item, whose spectra are those of the item alone; None for all.

        Returns:
            (B, ceil(T / hop_length), dim), of the dtype of x.
        """
        count = -(-x.shape[-1] // self.hop_length)
        right = max((count - 1) * self.hop_length + self.frame - self.offset - x.shape[-1], 0)
        signal = reflect(x[:, 0].float(), self.offset, right, lengths)
        spectrum = torch.stft(
            signal, self.frame, self.hop_length, window=self.window(x.device), center=False, return_complex=True
        )
        bands = spectrum.abs().mT @ self.filters(x.device)
        return bands[:, :count].clamp_min(self.floor).log().to(x.dtype)

    def extra_repr(self) -> str:
        return f"sample_rate={self.sample_rate}, dim={self.dim}, frame={self.frame}, hop_length={self.hop_length}"
