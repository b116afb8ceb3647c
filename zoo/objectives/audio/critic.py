"""What audio critics have in common: several discriminators, each with logits and feature maps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from zoo.objectives.audio.spectrum import Waveform

__all__ = ["AudioCritic", "Discriminator", "Verdict", "padded_conv"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one discriminator says.

    Attributes:
        logits: (B * C, 1, ...), higher for real.
        features: maps (B * C, W, ...) of the layers before, in order.
    """

    logits: Tensor
    features: list[Tensor]


def padded_conv(
    before: int,
    after: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] | int = 1,
    dilation: Sequence[int] | int = 1,
    groups: int = 1,
    normed: bool = True,
) -> nn.Module:
    """A convolution over as many axes as `kernel`, padded by half its extent and weight-normed."""
    axes = len(kernel)
    strides = (stride,) * axes if isinstance(stride, int) else tuple(stride)
    dilations = (dilation,) * axes if isinstance(dilation, int) else tuple(dilation)
    padding = tuple(step * (side - 1) // 2 for side, step in zip(kernel, dilations, strict=True))
    kind = nn.Conv1d if axes == 1 else nn.Conv2d
    conv = kind(before, after, tuple(kernel), strides, padding, dilations, groups)  # type: ignore[arg-type]
    return weight_norm(conv) if normed else conv


class Discriminator(nn.Module):
    """A stack of convolutions with leaky rectifiers and a head.

    Args:
        convs: the stack.
        head: last features -> logits.
        slope: of the rectifiers below 0.
        conditions: rows of the embedding that is projected on the last features (arXiv 1802.05637); 0 for none.
        width: channels of the last features; needed with conditions.
        first: number of the first layer whose features are shown.
    """

    def __init__(
        self,
        convs: Sequence[nn.Module],
        head: nn.Module,
        *,
        slope: float,
        conditions: int = 0,
        width: int = 0,
        first: int = 0,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.head = head
        self.slope, self.first = slope, first
        self.embed = nn.Embedding(conditions, width) if conditions else None
        if self.embed is not None:
            nn.init.zeros_(self.embed.weight)

    def judge(self, x: Tensor, condition: int = 0) -> Verdict:
        """What the first layer reads (B, W, ...) -> verdict."""
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), self.slope)
            features.append(x)
        logits = self.head(x)
        if self.embed is not None:
            row = self.embed.weight[condition].view(-1, *(1,) * (x.ndim - 2))
            logits = logits + (row * x).sum(1, keepdim=True)
        return Verdict(logits, features[self.first :])


class AudioCritic(nn.Module):
    """Base of audio critics: `discriminators` that each judge a waveform."""

    discriminators: nn.ModuleList

    def forward(self, x: Waveform | Tensor, condition: int = 0) -> list[Verdict]:
        """Waveforms (B, C, T) -> a verdict of each discriminator.

        Args:
            x: the waveforms.
            condition: row of the embedding, where the critic is conditioned.
        """
        wave = Waveform.of(x)
        return [discriminator(wave, condition) for discriminator in self.discriminators]

    def load_published(self, state: Mapping[str, Tensor], prefix: str = "", *, first: int = 0) -> None:
        """Take weights as the reference implementations store them, strictly.

        Args:
            state: keys `PREFIXdiscriminators.NUMBER. ...` of EnCodec, DAC, Vocos or WavTokenizer; others are
                left aside.
            prefix: such as "multiperioddisc.".
            first: NUMBER of the first discriminator that belongs to this critic.

        Raises:
            RuntimeError: keys are missing or left over, or shapes differ.
        """
        count = len(self.discriminators)
        pattern = re.compile(re.escape(prefix) + r"discriminators\.(\d+)\.(.+)")
        converted = {}
        for key, tensor in state.items():
            found = pattern.fullmatch(key)
            if found is None or not first <= int(found[1]) < first + count or found[2].endswith("window"):
                continue
            converted[f"discriminators.{int(found[1]) - first}.{_ours(found[2])}"] = tensor
        self.load_state_dict(converted, strict=True, assign=any(tensor.is_meta for tensor in converted.values()))


RENAMED = (
    (r"^band_convs\.(\d+)\.(\d+)\.0\.", r"bands.\1.\2."),
    (r"^convs\.(\d+)\.(?:0|conv)\.", r"convs.\1."),
    (r"^conv_post\.(?:conv\.)?", "head."),
    (r"^emb\.", "embed."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)


def _ours(key: str) -> str:
    for theirs, ours in RENAMED:
        key = re.sub(theirs, ours, key)
    return key
