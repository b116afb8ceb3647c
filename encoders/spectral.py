"""A log-mel spectrum and a small network at its frame rate: sound to latents without strided convolutions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from encoders.layers.convnext import ConvNeXtBlock
from encoders.layers.stft import Framing
from encoders.layers.streaming import Stream
from encoders.layers.time_conv import TimeConv, blank_steps
from encoders.mel import MelEncoder

__all__ = ["SpectralEncoder"]

# Of log-mel bands of speech with a peak of -3.5 dB, pauses included, as an hour of five languages has them: mean and
# deviation of all bands; means of their orthonormal cosine coefficients and deviations, STRONGEST * order^-FALL.
LEVEL, SPREAD = -0.4, 2.4
MEANS = (0.0, 3.6, -2.1, 2.1, -2.8, -1.1, -2.9, -0.7)  # about 0 from there on
STRONGEST, FALL = 16.4, 1.15
REACH = 0.8  # standard deviation of a latent at the start: most of what a bounded quantizer tells apart


class SpectralEncoder(nn.Module):
    """Log-mel frames, then the cosine transform over their bands plus what convolutions add.

        z = A m + head(ConvNeXt(conv(m))),    m = (log mel - level) / spread

    A starts as the first `dim` coefficients of the cosine transform, each with a standard deviation of about 0.8 on
    speech, and the head as zeros: an untrained encoder is a cepstrum, and all steps of training go into what is beyond
    it. Everything is local in time: m reads `frame` samples, the first convolution 7 frames, and so does every block
    (arXiv 2306.00814, Sec. 3.2, for the blocks).

    Args:
        dim: D of the latents; those beyond `bands` start as zeros.
        sample_rate: Hz.
        hop_length: samples per latent.
        frame: samples of a window.
        bands: of the mel scale.
        width: W of the blocks.
        depth: blocks.
        hidden: width inside a block; None for 3 W.
        framing: "same": a window is centred on the hop of its latent; "center": on the hop's first sample.
        causal: convolutions read earlier frames alone, and zeros stand beyond the ends of the signal. A latent then
            looks ahead no further than its window, and the encoder streams.

    Attributes:
        channels: 1.
        streams: as `causal`.
        any_length: the sound need not be whole hops.
        context: samples before and behind its own hop that a latent reads.

    Raises:
        ValueError: a window that does not fit its hop.
    """

    def __init__(
        self,
        dim: int,
        sample_rate: int,
        hop_length: int = 256,
        frame: int = 1024,
        bands: int = 80,
        width: int = 192,
        depth: int = 3,
        hidden: int | None = None,
        framing: Framing = "same",
        causal: bool = False,
    ) -> None:
        super().__init__()
        edges: Literal["reflect", "constant"] = "constant" if causal else "reflect"
        self.mel = MelEncoder(sample_rate, bands, frame, hop_length, framing, floor=1e-5, edges=edges)
        self.streams = causal
        self.dim, self.hop_length, self.channels, self.any_length = dim, hop_length, 1, True
        self.shortcut = nn.Linear(bands, dim)
        self.embed = TimeConv(bands, width, 7, causal=causal)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        sizes = (width, 3 * width if hidden is None else hidden)
        gain = 1 / max(depth, 1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(*sizes, gain=gain, causal=causal) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, dim)
        self.reset_parameters()
        reach = 3 * (1 + depth) * hop_length
        before, behind = self.mel.context or (0, 0)
        back, ahead = (2 * reach, 0) if causal else (reach, reach)
        self.context: tuple[int, int] | None = (before + back, behind + ahead)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The shortcut as a cosine transform, the head as zeros."""
        weight, bias = cepstrum(*self.shortcut.weight.shape)
        self.shortcut.weight.copy_(weight)
        self.shortcut.bias.copy_(bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, 1, T) in [-1, 1], any T >= 1.
            lengths: (B,) int64 real samples of each item, which is encoded as if it stood alone; None for all.
            stream: continues a sound, if causal.

        Returns:
            (B, ceil(T / hop_length), dim), meaningful in the first ceil(lengths / hop_length) places.
        """
        frames = None if lengths is None else -(-lengths // self.hop_length)
        mel = (self.mel(x, lengths, stream) - LEVEL) / SPREAD
        hidden = self.norm(self.embed(blank_steps(mel, frames), stream))
        for block in self.blocks:
            hidden = block(hidden, frames, stream=stream)
        return self.shortcut(mel) + self.head(self.final_norm(hidden))


def cepstrum(count: int, bands: int) -> tuple[Tensor, Tensor]:
    """The cosine transform (DCT-II) of normalised bands, scaled so that each coefficient has deviation `REACH`.

    Returns:
        rows (count, bands) and biases (count,) float32; there are `bands` coefficients, further rows are zeros.
    """
    order = torch.arange(count, dtype=torch.float64)
    rows = torch.cos(math.pi / bands * order[:, None] * (torch.arange(bands, dtype=torch.float64) + 0.5))
    rows *= math.sqrt(2 / bands)
    rows[0] /= math.sqrt(2)
    rows[bands:] = 0
    gains = REACH / STRONGEST * (order + 1) ** FALL
    means = torch.zeros(count, dtype=torch.float64)
    means[: len(MEANS)] = torch.tensor(MEANS[:count], dtype=torch.float64)
    return (rows * (SPREAD * gains)[:, None]).float(), (-means * gains).float()
