"""Critics that read short-time spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.objectives.audio.critic import AudioCritic, Discriminator, Verdict, padded_conv
from zoo.objectives.audio.spectrum import STFT, Waveform

__all__ = ["MultiBandCritic", "MultiResolutionCritic", "MultiScaleSTFTCritic"]


class ResolutionDiscriminator(Discriminator):
    """Convolves magnitudes with a rectangular window over frequencies and frames."""

    def __init__(self, n_fft: int, hop: int, width: int, conditions: int) -> None:
        layers = (
            (1, (7, 5), (2, 2)),
            (width, (5, 3), (2, 1)),
            (width, (5, 3), (2, 2)),
            (width, (3, 3), (2, 1)),
            (width, (3, 3), (2, 2)),
        )
        convs = [padded_conv(before, width, kernel, stride=stride) for before, kernel, stride in layers]
        super().__init__(convs, padded_conv(width, 1, (3, 3)), slope=0.1, conditions=conditions, width=width)
        self.stft = STFT(n_fft, hop, window="none")

    def forward(self, wave: Waveform, condition: int) -> Verdict:
        """(B, C, T) -> logits (B * C, 1, frequencies, frames)."""
        return self.judge(self.stft.magnitude(wave).flatten(0, 1)[:, None], condition)


class MultiResolutionCritic(AudioCritic):
    """Discriminators of magnitudes at several resolutions (UnivNet, arXiv 2106.07889, as Vocos and WavTokenizer do).

    Args:
        resolutions: (n_fft, hop) of each, samples.
        channels: width of the layers.
        conditions: rows of the embedding that is projected on the last features; 0 for none.
    """

    def __init__(
        self,
        resolutions: Sequence[Sequence[int]] = ((1024, 256), (2048, 512), (512, 128)),
        *,
        channels: int = 64,
        conditions: int = 0,
    ) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            ResolutionDiscriminator(n_fft, hop, channels, conditions) for n_fft, hop in resolutions
        )


class ComplexDiscriminator(Discriminator):
    """Convolves real and imaginary parts over frames and frequencies, dilated in time."""

    def __init__(self, n_fft: int, channels: int, width: int) -> None:
        # As published: the first layer is not weight-normed.
        convs = [padded_conv(2 * channels, width, (3, 9), normed=False)]
        convs += [padded_conv(width, width, (3, 9), stride=(1, 2), dilation=(step, 1)) for step in (1, 2, 4)]
        convs.append(padded_conv(width, width, (3, 3)))
        super().__init__(convs, padded_conv(width, 1, (3, 3)), slope=0.2)
        self.stft = STFT(n_fft, padding="none", normalized=True)
        self.channels = channels

    def forward(self, wave: Waveform, condition: int) -> Verdict:
        """(B, C, T) -> logits (B, 1, frames, frequencies)."""
        spectrum = self.stft(wave)
        if spectrum.shape[1] != self.channels:
            raise ValueError(
                f"MultiScaleSTFTCritic(audio_channels={self.channels}) expects (B, {self.channels}, T), "
                f"got {tuple(wave.samples.shape)}; set audio_channels"
            )
        parts = torch.cat((spectrum.real, spectrum.imag), dim=1)
        return self.judge(rearrange(parts, "b c f l -> b c l f"))


class MultiScaleSTFTCritic(AudioCritic):
    """Discriminators of complex spectra at several scales (EnCodec, arXiv 2210.13438, section 3.4).

    Args:
        windows: samples of each scale's window; hops are a quarter.
        channels: width of the layers.
        audio_channels: C of the waveforms, judged together.
    """

    def __init__(
        self, windows: Sequence[int] = (1024, 2048, 512), *, channels: int = 32, audio_channels: int = 1
    ) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            ComplexDiscriminator(window, audio_channels, channels) for window in windows
        )


class BandDiscriminator(nn.Module):
    """Convolves real and imaginary parts, with layers of its own for each band of frequencies."""

    def __init__(
        self, n_fft: int, width: int, bands: Sequence[Sequence[float]], framing: Literal["stride", "center"]
    ) -> None:
        super().__init__()
        bins = n_fft // 2 + 1
        self.edges = [(int(low * bins), int(high * bins)) for low, high in bands]
        self.bands = nn.ModuleList(
            nn.ModuleList(
                [
                    padded_conv(2, width, (3, 9)),
                    *(padded_conv(width, width, (3, 9), stride=(1, 2)) for _ in range(3)),
                    padded_conv(width, width, (3, 3)),
                ]
            )
            for _ in bands
        )
        self.head = padded_conv(width, 1, (3, 3))
        self.stft = STFT(n_fft, window="hann" if framing == "stride" else "none", padding=framing)

    def forward(self, wave: Waveform, condition: int) -> Verdict:
        """(B, C, T) -> logits (B * C, 1, frames, frequencies)."""
        spectrum = rearrange(torch.view_as_real(self.stft(wave)), "b c f l p -> (b c) p l f")
        features: list[Tensor] = []
        for (low, high), convs in zip(self.edges, self.bands, strict=True):
            x = spectrum[..., low:high]
            for conv in convs:  # type: ignore[attr-defined]
                x = F.leaky_relu(conv(x), 0.1)
                features.append(x)
        depth = len(features) // len(self.edges)
        return Verdict(self.head(torch.cat(features[depth - 1 :: depth], dim=-1)), features)


class MultiBandCritic(AudioCritic):
    """Discriminators of complex spectra split into bands (descript-audio-codec, arXiv 2306.06546, section 3.3).

    Args:
        windows: samples of each scale's window; hops are a quarter.
        channels: width of the layers.
        bands: (low, high) of each band as shares of the spectrum.
        framing: "stride" has Hann windows and ceil(T / hop) frames, as published; "center" has rectangular windows and
            T // hop + 1 frames, as the copy in WavTokenizer.
    """

    def __init__(
        self,
        windows: Sequence[int] = (2048, 1024, 512),
        *,
        channels: int = 32,
        bands: Sequence[Sequence[float]] = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)),
        framing: Literal["stride", "center"] = "stride",
    ) -> None:
        super().__init__()
        if framing not in ("stride", "center"):
            raise ValueError(f"framing is stride or center, got {framing!r}")
        self.discriminators = nn.ModuleList(BandDiscriminator(window, channels, bands, framing) for window in windows)
