"""Critics for adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PatchCritic"]

BINOMIAL = {3: (1.0, 2.0, 1.0), 4: (1.0, 3.0, 3.0, 1.0), 5: (1.0, 4.0, 6.0, 4.0, 1.0)}


class Blur(nn.Module):
    """Binomial low-pass filter with stride 2 and TensorFlow's "same" padding: (B, C, H, W) -> (B, C, H / 2, W / 2).

    Args:
        size: taps of the filter, 3 to 5. The padding is that of 4 taps for all, as in the original.
    """

    kernel: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if size not in BINOMIAL:
            raise ValueError(f"blur size is one of {', '.join(map(str, BINOMIAL))}, got {size}")
        taps = torch.tensor(BINOMIAL[size])
        kernel = taps[:, None] * taps
        self.register_buffer("kernel", (kernel / kernel.sum())[None, None])

    def forward(self, x: Tensor) -> Tensor:
        right, bottom = 1 + x.shape[3] % 2, 1 + x.shape[2] % 2
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, -1, -1, -1)
        return F.conv2d(F.pad(x, (1, right, 1, bottom)), kernel, stride=2, groups=channels)


class PatchCritic(nn.Module):
    """The critic of TiTok's second stage: blurred strided stages, pooled to a 16 x 16 map of logits (arXiv 2406.07550).

    Args:
        channels: width of the first stage, doubled by each stage after it; a multiple of 32.
        stages: number of stages, each halves the resolution.
        blur: taps of the anti-aliasing filter, or None for 2 x 2 average pooling.
    """

    def __init__(self, *, channels: int = 128, stages: int = 3, blur: int | None = 4) -> None:
        super().__init__()
        if stages < 1 or channels % 32:
            raise ValueError(f"stages must be positive and channels a multiple of 32, got {stages} and {channels}")
        self.conv_in = nn.Conv2d(3, channels, 5, padding=2)
        widths = [channels, *(channels * 2**level for level in range(stages))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1),
                nn.AvgPool2d(2) if blur is None else Blur(blur),
                nn.GroupNorm(32, after),
                nn.LeakyReLU(0.1),
            )
            for before, after in pairwise(widths)
        )
        self.head = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 1), nn.LeakyReLU(0.1), nn.Conv2d(widths[-1], 1, 5, padding=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), any fixed range -> logits (B, 1, 16, 16), higher for real."""
        x = F.leaky_relu(self.conv_in(x), 0.1)
        for stage in self.stages:
            x = stage(x)
        return self.head(F.adaptive_max_pool2d(x, (16, 16)))

    @classmethod
    def from_reference(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """Build from the arguments and the state dict of `NLayerDiscriminator` (bytedance/1d-tokenizer), strictly.

        Raises:
            ValueError: not RGB.
            RuntimeError: keys are missing or left over.
        """
        if config.get("num_channels", 3) != 3:
            raise ValueError(f"PatchCritic reads 3 channels, the config has num_channels={config['num_channels']}")
        critic = cls(
            channels=int(config.get("hidden_channels", 128)),
            stages=int(config.get("num_stages", 3)),
            blur=int(config.get("blur_kernel_size", 4)) if config.get("blur_resample", True) else None,
        )
        renamed = (("block_in.0.", "conv_in."), ("blocks.", "stages."), ("to_logits.", "head."))
        converted = {}
        for key, tensor in state.items():
            for theirs, ours in renamed:
                key = key.replace(theirs, ours)
            converted[key] = tensor
        critic.load_state_dict(converted, strict=True)
        return critic
