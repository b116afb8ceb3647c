"""Semantic alignment: inner features of a tokenizer that resemble those of a frozen vision network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.objectives.vision import OFFLINE, VisionFeatures
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["Alignment"]

Compare = Literal["cosine", "mse"]
Projector = Literal["mlp", "linear", "none"]


class Alignment(nn.Module):
    """Distance between projected features of a tokenizer and those of a frozen vision network (REPA, arXiv 2410.06940).

    A map (B, W, h, w) is compared, position by position, with the network's map of the same picture, resampled to
    (h, w); a vector (B, W) with the network's feature of the whole picture.

    Args:
        features: names in `Reconstruction.extras`; several are added up. `Tokenizer.features` lists what a family has.
        dims: width W of each.
        net: a network of timm. That of the default comes with pip, others are downloaded once.
        size: pixels at which the network looks; None for its own.
        stage: which of the network's maps; None for the last.
        pool: how the network sums a picture up: timm's `global_pool`, such as "token" for its class token; None for
            its own way.
        compare: "cosine" is max(0, 1 - margin - cosine), "mse" the squared error.
        margin: for "cosine": what is this close to 1 counts as equal (ResTok: 0.25).
        projector: "mlp" of three layers with SiLU (REPA), "linear", or "none" for a family that projects by itself.
        hidden: width of the mlp.
        weight: in the objective (REPA: 0.5).
        tail: strength for an item that kept its whole code, where one that kept a single token has 1; evenly between.
            Below 1, early tokens are drawn to meaning and late ones left to detail (ReTok, arXiv 2601.01535).
        pretrained: False is for tests only.

    Raises:
        ImportError: timm is missing.
        ValueError: an unknown name, or features and dims that do not fit.
        RuntimeError: the network's weights are not in the cache and cannot be downloaded.
    """

    def __init__(
        self,
        features: str | Sequence[str],
        dims: int | Sequence[int],
        *,
        net: str = OFFLINE,
        size: int | None = None,
        stage: int | None = None,
        pool: str | None = None,
        compare: Compare = "cosine",
        margin: float = 0.0,
        projector: Projector = "mlp",
        hidden: int = 2048,
        weight: float = 0.5,
        tail: float = 1.0,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        names = (features,) if isinstance(features, str) else tuple(features)
        widths = (dims,) if isinstance(dims, int) else tuple(dims)
        if not names or len(names) != len(widths):
            raise ValueError(f"Alignment expects one width for each feature, got {list(names)} and {list(widths)}")
        if compare not in get_args(Compare) or projector not in get_args(Projector):
            raise ValueError(
                f"compare is cosine or mse and projector mlp, linear or none; got {compare!r} and {projector!r}"
            )
        self.features, self.dims = names, widths
        if not 0 <= tail <= 1:
            raise ValueError(f"tail is a share of the strength, 0 to 1, got {tail}")
        self.compare, self.margin, self.weight, self.tail = compare, margin, weight, tail
        self.net = VisionFeatures(net, size=size, stage=stage, pool=pool, pretrained=pretrained)
        if projector == "none" and set(widths) != {self.net.dim}:
            raise ValueError(f"without projector the features must be {self.net.dim} wide as {net} is, got {widths}")
        self.projectors = nn.ModuleList(project(width, hidden, self.net.dim, projector) for width in widths)
        self._offered: dict[str, int] = {}

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Ask a tokenizer for the features.

        Raises:
            ValueError: one of them has another width.
        """
        self._offered = tokenizer.features
        for name, width in zip(self.features, self.dims, strict=True):
            if name not in self._offered:
                continue  # a family may fill extras unasked; forward looks
            if self._offered[name] != width:
                raise ValueError(f"feature {name!r} is {self._offered[name]} wide, Alignment was given dims={width}")
            tokenizer.expose(name)

    def forward(self, x: Tensor, reconstruction: Reconstruction) -> Tensor:
        """The distance ().

        Args:
            x: (B, 3, H, W) in [-1, 1], what was encoded.
            reconstruction: of x, with the features in `extras`.

        Raises:
            ValueError: the tokenizer gives no feature of that name, or one of another shape.
        """
        targets: dict[bool, Tensor] = {}
        strength = self._strength(reconstruction)
        total = torch.zeros((), device=x.device)
        for name, projector in zip(self.features, self.projectors, strict=True):
            found = self._find(name, reconstruction)
            whole = found.ndim == 2
            if whole not in targets:
                targets[whole] = self.net(x, whole=whole)
            total = total + self._distance(projector(channels_last(found)), targets[whole], strength)
        return total

    def _find(self, name: str, reconstruction: Reconstruction) -> Tensor:
        found = reconstruction.extras.get(name)
        if found is None:
            there = ", ".join(dict.fromkeys((*self._offered, *reconstruction.extras))) or "none"
            raise ValueError(f"Alignment looks for the feature {name!r}; this tokenizer has: {there}")
        width = self.dims[self.features.index(name)]
        if found.ndim not in (2, 4) or found.shape[1] != width:
            raise ValueError(
                f"Alignment expects {name!r} as (B, {width}, h, w) or (B, {width}), got {tuple(found.shape)}; set dims"
            )
        return found

    def _strength(self, reconstruction: Reconstruction) -> Tensor | None:
        """(B,) in [tail, 1] by the length of each item, (1,) where all are whole; None where length does not count."""
        lengths, whole = reconstruction.lengths, reconstruction.quantized.latents.shape[1]
        if self.tail == 1:
            return None
        if lengths is None:
            lengths = torch.tensor([whole], device=reconstruction.output.device)
        return 1 - (1 - self.tail) * (lengths - 1) / max(whole - 1, 1)

    def _distance(self, ours: Tensor, target: Tensor, strength: Tensor | None = None) -> Tensor:
        """Of ours (B, h, w, D) and a map (B, D, h', w'), or of (B, D) and (B, D); each item by its strength (B,)."""
        if target.ndim == 4:
            size = (ours.shape[1], ours.shape[2])
            if target.shape[2:] != size:
                target = F.interpolate(target, size, mode="bilinear", antialias=True, align_corners=False)
            target = channels_last(target)
        ours = ours.float()
        if self.compare == "mse":
            distance = (ours - target).square().mean(-1)
        else:
            distance = (1 - self.margin - F.cosine_similarity(ours, target, dim=-1)).clamp_min(0)
        return distance.mean() if strength is None else (distance.reshape(len(ours), -1).mean(1) * strength).mean()


def channels_last(features: Tensor) -> Tensor:
    return rearrange(features, "b c h w -> b h w c") if features.ndim == 4 else features


def project(width: int, hidden: int, dim: int, kind: Projector) -> nn.Module:
    """(..., width) -> (..., dim)."""
    if kind == "none":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, dim)
    return nn.Sequential(
        nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim)
    )
