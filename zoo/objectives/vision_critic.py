"""A critic that looks through a trained vision network, and the augmentation that keeps it from memorising."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from zoo.objectives.vision import OFFLINE, VisionTower

__all__ = ["DiffAugment", "VisionCritic"]


class DiffAugment(nn.Module):
    """Differentiable augmentation of what a critic sees, real or not (arXiv 2006.10738): colour, shift, cutout.

    Each of the three is applied to an item with probability `probability`. Draws come from torch's global generator.

    Args:
        probability: of each change, for each item.
        shift: largest translation, a share of the side; what comes in is black.
        cutout: side of the square that is set to 0.5 grey, a share of the side; 0 for none.
    """

    def __init__(self, *, probability: float = 0.5, shift: float = 0.125, cutout: float = 0.2) -> None:
        super().__init__()
        for name, value in (("probability", probability), ("shift", shift), ("cutout", cutout)):
            if not 0 <= value <= 1:
                raise ValueError(f"DiffAugment: {name} lies in [0, 1], got {value}")
        self.probability, self.shift, self.cutout = probability, shift, cutout

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the same shape."""
        chosen = torch.rand(3, len(x), 1, 1, 1, device=x.device) < self.probability
        x = torch.where(chosen[0], self._colour(x), x)
        x = torch.where(chosen[1], self._shifted(x), x)
        return torch.where(chosen[2] & self._hole(x), 0.5, x) if self.cutout else x

    def _colour(self, x: Tensor) -> Tensor:
        """Brightness by up to 0.5, saturation up to twofold, contrast by half to one and a half."""
        brightness, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device)
        x = x + brightness - 0.5
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * 2 * saturation
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean + (x - mean) * (contrast + 0.5)

    def _shifted(self, x: Tensor) -> Tensor:
        """Moved by whole pixels, so that nothing is interpolated."""
        batch, _, *sides = x.shape
        places, inside = [], []
        for side in sides:
            reach = round(self.shift * side)
            offset = torch.randint(-reach, reach + 1, (batch, 1), device=x.device)
            place = torch.arange(side, device=x.device) + offset
            places.append(place.clamp(0, side - 1))
            inside.append((place >= 0) & (place < side))
        items = torch.arange(batch, device=x.device)[:, None, None]
        moved = x.permute(0, 2, 3, 1)[items, places[0][:, :, None], places[1][:, None]].permute(0, 3, 1, 2)
        return moved * (inside[0][:, :, None] & inside[1][:, None])[:, None]

    def _hole(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) bool, True in a square whose centre is anywhere in the picture."""
        within = []
        for side in x.shape[2:]:
            centre = torch.randint(0, side, (len(x), 1), device=x.device)
            distance = torch.arange(side, device=x.device) - centre
            reach = round(self.cutout * side / 2)
            within.append((distance >= -reach) & (distance < reach))
        return (within[0][:, :, None] & within[1][:, None])[:, None]


class VisionCritic(nn.Module):
    """Small heads that judge what a frozen vision network sees at several depths (StyleGAN-T, arXiv 2301.09515).

    Only the heads learn. A head reads the rows of one map as a sequence: a convolution of width 1, a residual one of
    `kernel` with circular padding, and a logit for each position, all with spectral normalisation.

    Args:
        net: of timm; "vit_small_patch16_224.dino" is that of the paper. That of the default comes with pip.
        stages: which of the maps that timm extracts, one head each: blocks of a transformer (2, 5, 8, 11), stages of a
            convolutional network.
        size: pixels at which the network looks; None for its own. Larger pictures are cut to it at a random place.
        kernel: taps of the residual convolution, odd.
        augment: what happens to the pictures before, such as `DiffAugment`; None for nothing.
        pretrained: False is for tests only.

    Raises:
        ValueError: an even kernel, or stages that the network does not have; else what `VisionFeatures` raises.
    """

    def __init__(
        self,
        net: str = OFFLINE,
        *,
        stages: Sequence[int] = (1, 2, 3, 4),
        size: int | None = None,
        kernel: int = 9,
        augment: nn.Module | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 or kernel < 1:
            raise ValueError(f"VisionCritic: kernel is odd, got {kernel}")
        self.tower = VisionTower(net, stages=tuple(stages), size=size, pretrained=pretrained)
        self.augment = augment
        self.heads = nn.ModuleList(Head(width, kernel) for width in self.tower.widths)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, positions of all maps), higher for real."""
        if self.augment is not None:
            x = self.augment(x)
        x = random_cut(x, self.tower.size)
        maps = self.tower(x * 2 - 1)
        return torch.cat([head(found.flatten(2)) for head, found in zip(self.heads, maps, strict=True)], dim=1)


class Head(nn.Module):
    """Logits of a sequence of features."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.point = Judge(width, 1)
        self.wide = Judge(width, kernel)
        self.logit = spectral_norm(nn.Conv1d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, L) -> (B, L)."""
        x = self.point(x)
        x = (x + self.wide(x)) / math.sqrt(2)
        return self.logit(x)[:, 0]


class Judge(nn.Module):
    """A normalised convolution that keeps the length: (B, W, L) -> (B, W, L)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.margin = kernel // 2
        self.conv = spectral_norm(nn.Conv1d(width, width, kernel))
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        if self.margin:
            # Maps may be shorter than the kernel: go around as often as it takes.
            length = x.shape[2]
            around = torch.arange(-self.margin, length + self.margin, device=x.device) % length
            x = x[:, :, around]
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


def random_cut(x: Tensor, size: int) -> Tensor:
    """The same square of all pictures, at a random place; whole where they are no larger."""
    top, left = (int(torch.randint(max(side - size, 0) + 1, ())) for side in x.shape[2:])
    return x[:, :, top : top + size, left : left + size]
