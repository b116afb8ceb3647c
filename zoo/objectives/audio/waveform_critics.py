"""Critics that read samples: by periods and by scales."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from zoo.objectives.audio.critic import AudioCritic, Discriminator, Verdict, padded_conv
from zoo.objectives.audio.spectrum import Waveform

__all__ = ["MultiPeriodCritic", "MultiScaleCritic"]


class PeriodDiscriminator(Discriminator):
    """Folds a waveform into rows of `period` samples and convolves along each phase."""

    def __init__(self, period: int, channels: Sequence[int], *, conditions: int, always_pad: bool, first: int) -> None:
        widths = [1, *channels]
        strides = [3] * (len(channels) - 1) + [1]
        convs = [
            padded_conv(before, after, (5, 1), stride=(stride, 1))
            for (before, after), stride in zip(pairwise(widths), strides, strict=True)
        ]
        head = padded_conv(widths[-1], 1, (3, 1))
        super().__init__(convs, head, slope=0.1, conditions=conditions, width=widths[-1], first=first)
        self.period, self.always_pad = period, always_pad

    def forward(self, wave: Waveform, condition: int) -> Verdict:
        """(B, C, T) -> logits (B * C, 1, rows, period)."""
        x = wave.samples.flatten(0, 1)[:, None]
        missing = self.period - x.shape[-1] % self.period
        if missing < self.period or self.always_pad:
            x = F.pad(x, (0, missing), mode="reflect" if missing < x.shape[-1] else "constant")
        return self.judge(x.unflatten(-1, (-1, self.period)), condition)


class MultiPeriodCritic(AudioCritic):
    """Discriminators of every second, third, fifth ... sample (HiFi-GAN, arXiv 2010.05646, section 2.3).

    Args:
        periods: one discriminator for each.
        channels: widths of the layers.
        conditions: rows of the embedding that Vocos and WavTokenizer project on the last features; 0 for none.
        always_pad: pad by a whole period where the length is a multiple of it, as descript-audio-codec does.
        first: number of the first layer whose features are shown; 1 in Vocos and WavTokenizer.
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        *,
        channels: Sequence[int] = (32, 128, 512, 1024, 1024),
        conditions: int = 0,
        always_pad: bool = False,
        first: int = 0,
    ) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            PeriodDiscriminator(period, channels, conditions=conditions, always_pad=always_pad, first=first)
            for period in periods
        )


class ScaleDiscriminator(Discriminator):
    """Grouped one-dimensional convolutions over a waveform that was averaged down `level` times."""

    def __init__(self, level: int, width: int, *, spectral: bool) -> None:
        layers = (
            (1, width, 15, 1, 1),
            (width, width, 41, 2, 4),
            (width, 2 * width, 41, 2, 16),
            (2 * width, 4 * width, 41, 4, 16),
            (4 * width, 8 * width, 41, 4, 16),
            (8 * width, 8 * width, 41, 1, 16),
            (8 * width, 8 * width, 5, 1, 1),
            (8 * width, 1, 3, 1, 1),
        )
        convs = [
            padded_conv(before, after, (kernel,), stride=stride, groups=groups, normed=not spectral)
            for before, after, kernel, stride, groups in layers
        ]
        if spectral:
            convs = [spectral_norm(conv) for conv in convs]
        super().__init__(convs[:-1], convs[-1], slope=0.1)
        self.level = level

    def forward(self, wave: Waveform, condition: int) -> Verdict:
        """(B, C, T) -> logits (B * C, 1, L)."""
        return self.judge(averaged(wave, self.level).samples.flatten(0, 1)[:, None])


def averaged(wave: Waveform, level: int) -> Waveform:
    """The waveform at 2^-level of its rate, by windows of 4 samples."""
    if level == 0:
        return wave

    def halve(samples: Tensor) -> Tensor:
        return F.avg_pool1d(samples, 4, 2, padding=2)

    return averaged(wave, level - 1).derive("average", halve)


class MultiScaleCritic(AudioCritic):
    """Discriminators of the waveform at its rate, a half, a quarter (MelGAN, arXiv 1910.06711; HiFi-GAN's layers).

    The first is spectrally normalised, the others weight-normed.

    Args:
        scales: how many.
        channels: width of the first layer; a multiple of 16.
    """

    def __init__(self, scales: int = 3, *, channels: int = 128) -> None:
        super().__init__()
        if scales < 1 or channels % 16:
            raise ValueError(f"scales is positive and channels a multiple of 16, got {scales} and {channels}")
        self.discriminators = nn.ModuleList(
            ScaleDiscriminator(level, channels, spectral=level == 0) for level in range(scales)
        )
