"""Vocos: a network at the frame rate and an inverse transform in place of upsampling (arXiv 2306.00814)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.convnext import ConvNeXtBlock, layer_norm
from encoders.layers.position_net import PositionNet
from encoders.layers.streaming import Stream
from encoders.layers.time_conv import TimeConv, blank_steps

__all__ = ["ConvNeXtBackbone", "ResNetBackbone", "VocosDecoder"]


class ConvNeXtBackbone(nn.Module):
    """A convolution, norm, ConvNeXt blocks and a last norm, all at the frame rate (Vocos; WavTokenizer).

    Args:
        dim: D of the latents.
        width: W.
        depth: blocks.
        hidden: width inside a block; None for 3 W.
        conditions: rows of the norms inside, of which a call chooses one; 0 for plain norms.
        attention: put WavTokenizer's `PositionNet`, which mixes over all time, before the blocks.
        causal: convolutions read earlier frames alone, so that the backbone streams.

    Attributes:
        streams: as `causal`.
        context: frames before and behind its own that an output depends on; None for all.
    """

    def __init__(
        self,
        dim: int,
        width: int = 512,
        depth: int = 8,
        hidden: int | None = None,
        conditions: int = 0,
        attention: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if causal and attention:
            raise ValueError("a backbone with attention over all time is not causal; set one of the two")
        self.dim, self.width, self.conditions, self.streams = dim, width, conditions, causal
        self.embed = TimeConv(dim, width, 7, causal=causal)
        self.norm = layer_norm(width, conditions)
        sizes = (width, 3 * width if hidden is None else hidden)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(*sizes, gain=1 / depth, conditions=conditions, causal=causal) for _ in range(depth)
        )
        self.final_norm = nn.LayerNorm(width, eps=1e-6)
        self.apply(start_small)
        self.position_net = PositionNet(width) if attention else None  # keeps PyTorch's start, as published
        reach = 3 * (1 + depth)
        self.context = None if attention else (2 * reach, 0) if causal else (reach, reach)

    def forward(
        self,
        latents: Tensor,
        lengths: Tensor | None = None,
        condition: int | Tensor = 0,
        stream: Stream | None = None,
    ) -> Tensor:
        """latents (B, N, D), zeros past an end -> (B, N, W); `condition` in [0, conditions), or (B,) of such."""
        x = self.embed(latents, stream)
        if self.position_net is not None:
            x = self.position_net(x, lengths)
        x = self.norm(x, condition) if self.conditions else self.norm(x)
        for block in self.blocks:
            x = block(x, lengths, condition, stream)
        return self.final_norm(x)


class ResNetBackbone(nn.Module):
    """A convolution and residual blocks of dilated ones, all at the frame rate (Vocos' variant without ConvNeXt).

    Args:
        dim: D of the latents.
        width: W.
        depth: blocks; each has a residual pair of convolutions for every dilation.
        dilations: of the pairs.

    Attributes:
        context: frames before and behind its own that an output depends on.
    """

    def __init__(self, dim: int, width: int = 512, depth: int = 4, dilations: Sequence[int] = (1, 3, 5)) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.embed = TimeConv(dim, width, 3)
        self.blocks = nn.ModuleList(
            DilatedPair(width, dilation, gain=1 / (depth * len(dilations)))
            for _ in range(depth)
            for dilation in dilations
        )
        reach = 1 + depth * sum(dilation + 1 for dilation in dilations)
        self.context: tuple[int, int] | None = (reach, reach)

    def forward(self, latents: Tensor, lengths: Tensor | None = None, condition: int | Tensor = 0) -> Tensor:
        """latents (B, N, D), zeros past an end -> (B, N, W); there are no conditions to choose from."""
        x = self.embed(latents)
        for block in self.blocks:
            x = block(x, lengths)
        return x


class DilatedPair(nn.Module):
    """x + gain * conv(lrelu(dilated conv(lrelu(x)))), a gain per channel."""

    def __init__(self, width: int, dilation: int, gain: float) -> None:
        super().__init__()
        self.conv1 = TimeConv(width, width, 3, dilation=dilation)
        self.conv2 = TimeConv(width, width, 3)
        self.gain = nn.Parameter(torch.full((width,), gain))
        self.apply(start_small)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, N, W), real steps (B,) int64 or None for all -> (B, N, W)."""
        hidden = x
        for conv in (self.conv1, self.conv2):
            hidden = conv(blank_steps(F.leaky_relu(hidden, 0.1), lengths))
        return torch.addcmul(x, self.gain, hidden)


class VocosDecoder(nn.Module):
    """A backbone at the frame rate and a head that makes samples: behind any encoder of the same hop and width.

    Args:
        backbone: `ConvNeXtBackbone` or `ResNetBackbone`.
        head: `ISTFTHead` or `IMDCTHead`.

    Attributes:
        dim: D of the latents.
        hop_length: samples per token.
        channels: of the signal.
        context: tokens before and behind its own that a hop of samples depends on; None for all.
        conditions: conditions to choose from, 0 if there are none.
        streams: whether the backbone is causal, so that decoding can stream; what the head reads ahead is in `context`.

    Raises:
        ValueError: backbone and head of different widths.
    """

    def __init__(self, backbone: Any, head: Any) -> None:
        super().__init__()
        if backbone.width != head.width:
            raise ValueError(f"the head reads a width of {head.width}, the backbone gives {backbone.width}; set one")
        self.backbone, self.head = backbone, head
        self.dim: int = backbone.dim
        self.hop_length: int = head.hop_length
        self.channels: int = head.channels
        self.conditions: int = getattr(backbone, "conditions", 0)
        inner, outer = backbone.context, head.context
        self.context: tuple[int, int] | None = None if inner is None else (inner[0] + outer[0], inner[1] + outer[1])
        self.streams: bool = getattr(backbone, "streams", False)

    def forward(
        self,
        latents: Tensor,
        lengths: Tensor | None = None,
        condition: int | Tensor = 0,
        stream: Stream | None = None,
    ) -> Tensor:
        """Samples of latents.

        Args:
            latents: (B, N, D).
            lengths: (B,) int64 real tokens of each item, decoded as if they stood alone; None for all.
            condition: row of conditional norms, one for all or (B,) int64.
            stream: continues a sound, if the backbone is causal; samples come as soon as they are final.

        Returns:
            (B, C, N * hop_length), zeros past the end of an item where the transform's last frames have faded out.

        Raises:
            ValueError: a condition that is not there.
        """
        if isinstance(condition, int) and not 0 <= condition < max(self.conditions, 1):
            raise ValueError(f"condition lies in [0, {max(self.conditions, 1)}), got {condition}")
        if stream is None:
            return self.head(self.backbone(blank_steps(latents, lengths), lengths, condition), lengths)
        if not self.streams:
            raise ValueError("the backbone reads later frames and cannot stream; build it with causal=True")
        return self.head(self.backbone(latents, condition=condition, stream=stream), stream=stream)


def start_small(module: nn.Module) -> None:
    """Weights of convolutions and linear maps from a normal distribution of deviation 0.02, biases 0."""
    if isinstance(module, TimeConv | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
