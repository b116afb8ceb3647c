"""Measures of images.

Options of each, as a protocol gives them:

- psnr: average ("pictures" or "pixels")
- ssim: window ("gaussian" or "uniform"), data_range (of pictures in [0, 1]), channels ("rgb" or "grey")
- ms_ssim: channels
- lpips: net ("alex", "vgg" or "squeeze")
- rfid, sfid, ris, kid, precision_recall: network ("inception_fid"), resize ("tf1_bilinear", "torch_bilinear",
  "pil_bicubic" or "antialias"), scaling ("tf" or "symmetric"); also
  rfid, sfid: minimum (fewer pictures are refused); ris: splits; kid: subsets, subset_size; precision_recall: neighbours
- fd_efficientnet_lite0: minimum; kd_efficientnet_lite0: subsets, subset_size; cmmd_efficientnet_lite0: sigma, unbiased
- cmmd: unbiased
- fd, kd, mmd: as the three above, with network (such as "timm:vit_small_patch14_dinov2.lvd142m"), which is required
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.evaluation.measures.base import Better, Context, Measure, Number

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

    from zoo.evaluation.outcome import Outcome
    from zoo.metrics.feature_sets import RowMetric
    from zoo.metrics.features import Features, Network
    from zoo.metrics.frechet import FrechetDistance
    from zoo.metrics.reference import Reference

__all__ = ["MEASURES"]

INCEPTION, LITE, CLIP = "inception_fid", "efficientnet_lite0", "clip_vit_l14_336"


def _psnr(context: Context, **options: Any) -> Metric:
    from zoo.metrics.pictures import PSNR

    return PSNR(**options)


def _ssim(context: Context, **options: Any) -> Metric:
    from zoo.metrics.pictures import SSIM

    return SSIM(**options)


def _ms_ssim(context: Context, **options: Any) -> Metric:
    from zoo.metrics.pictures import MSSSIM

    return MSSSIM(**options)


def _lpips(context: Context, **options: Any) -> Metric:
    from zoo.metrics.pictures import LPIPS

    return LPIPS(**options)


def _features(context: Context, network: str, tap: str | None, options: dict[str, Any]) -> Features:
    """The tap of a network; takes the network's options out of a measure's."""
    from zoo.metrics.features import open_features

    keys = ("resize", "scaling")
    return open_features(network, tap, weights=context.weights, **{k: options.pop(k) for k in keys if k in options})


def _only(name: str, network: str, allowed: str, instead: str) -> None:
    if network != allowed:
        raise ValueError(f"{name} is measured with {allowed}, got network {network!r}; use {instead} with it")


def _frechet(context: Context, *, network: str, tap: str | None = None, **options: Any) -> FrechetDistance:
    from zoo.metrics.frechet import FrechetDistance

    features = _features(context, network, tap, options)
    moments = None
    if context.reference is not None:
        reference = _reference(context.reference)
        reference.check(features)
        moments = reference.of("pool" if tap is None else tap)
    return FrechetDistance(features, reference=moments, **options)


def _rfid(context: Context, *, network: str = INCEPTION, tap: str = "pool", **options: Any) -> FrechetDistance:
    _only("rfid" if tap == "pool" else "sfid", network, INCEPTION, "fd")
    return _frechet(context, network=network, tap=tap, **options)


@lru_cache(maxsize=2)
def _reference(path: Path) -> Reference:
    """A file of statistics, which every setting compares with."""
    from zoo.metrics.reference import read_reference

    return read_reference(path)


@lru_cache(maxsize=2)
def _seen(path: Path, network: Network, tap: str | None, device: str) -> Tensor:
    """What a network sees in the pictures of a file of statistics, (N, D)."""
    import torch

    from zoo.metrics.features import Features

    pictures = _reference(path).pictures
    if pictures is None:
        raise ValueError(f"{path} has no pictures (arr_0), which this measure compares with; leave the measure out")
    features = Features(network, tap)
    return torch.cat([features(batch.to(device)).cpu() for batch in pictures.batches(64)])


def _rows(
    context: Context, kind: Callable[..., RowMetric], *, network: str, tap: str | None = None, **options: Any
) -> RowMetric:
    features = _features(context, network, tap, options)
    rows = None
    if context.reference is not None:
        rows = _seen(context.reference, features.network, tap, context.device)
    return kind(features, reference=rows, **options)


def _ris(context: Context, *, network: str = INCEPTION, **options: Any) -> Metric:
    from zoo.metrics.scores import InceptionScore

    _only("ris", network, INCEPTION, "no measure")
    features = _features(context, network, "logits", options)
    return InceptionScore(features, seed=context.seed, **options)


def _kid(context: Context, *, network: str = INCEPTION, **options: Any) -> Metric:
    _only("kid", network, INCEPTION, "kd")
    return _kd(context, network=network, tap="pool", **options)


def _kd(context: Context, *, network: str, tap: str | None = None, **options: Any) -> Metric:
    from zoo.metrics.kernel import KernelDistance

    return _rows(context, KernelDistance, network=network, tap=tap, seed=context.seed, **options)


def _mmd(context: Context, *, network: str, **options: Any) -> Metric:
    from zoo.metrics.kernel import GaussianDistance

    return _rows(context, GaussianDistance, network=network, **options)


def _cmmd(context: Context, *, network: str = CLIP, **options: Any) -> Metric:
    _only("cmmd", network, CLIP, "mmd")
    return _mmd(context, network=network, **options)


def _precision_recall(context: Context, *, network: str = INCEPTION, **options: Any) -> Metric:
    from zoo.metrics.manifold import PrecisionRecall

    tap = "pool" if network == INCEPTION else None
    return _rows(context, PrecisionRecall, network=network, tap=tap, **options)


def _feed(metric: Any, outcome: Outcome) -> None:
    metric.update(outcome.output, outcome.target)


def _details(metric: Any) -> dict[str, Any]:
    found: Mapping[str, Any] = metric.protocol
    return dict(found)


def _one(
    name: str,
    build: Callable[..., Metric],
    title: str,
    better: Better,
    unit: str = "",
    digits: int = 3,
    extra: str = "",
) -> Measure:
    """A measure of one number."""
    return Measure(name, ("image",), {"": Number(title, better, unit, digits)}, build, _feed, _details, extra=extra)


def _spread(
    name: str, build: Callable[..., Metric], title: str, better: Better, digits: int = 5, extra: str = ""
) -> Measure:
    """A measure of a mean with its standard deviation."""
    numbers = {"mean": Number(title, better, "", digits), "std": Number(f"{title} ±", None, "", digits)}
    return Measure(name, ("image",), numbers, build, _feed, _details, extra=extra)


NETS = {"alex": "AlexNet", "vgg": "VGG", "squeeze": "SqueezeNet"}
SHARES = {name: Number(name, "higher", "", 4) for name in ("precision", "recall")}

MEASURES: tuple[Measure, ...] = (
    _one("psnr", _psnr, "PSNR", "higher", "dB", 2),
    _one("ssim", _ssim, "SSIM", "higher", digits=4),
    _one("ms_ssim", _ms_ssim, "MS-SSIM", "higher", digits=4),
    Measure(
        "lpips",
        ("image",),
        {net: Number(f"LPIPS ({title})", "lower", "", 4) for net, title in NETS.items()},
        _lpips,
        _feed,
        _details,
    ),
    _one("rfid", _rfid, "rFID", "lower"),
    _one("sfid", partial(_rfid, tap="spatial"), "sFID", "lower"),
    _spread("ris", _ris, "rIS", "higher", 2),
    _spread("kid", _kid, "KID", "lower"),
    Measure("precision_recall", ("image",), SHARES, _precision_recall, _feed, _details),
    _one("fd_efficientnet_lite0", partial(_frechet, network=LITE), "FD (EfficientNet-lite0)", "lower", extra="metrics"),
    _spread("kd_efficientnet_lite0", partial(_kd, network=LITE), "KD (EfficientNet-lite0)", "lower", extra="metrics"),
    _one("cmmd_efficientnet_lite0", partial(_mmd, network=LITE), "MMD (EfficientNet-lite0)", "lower", extra="metrics"),
    _one("cmmd", _cmmd, "CMMD", "lower", extra="text"),
    _one("fd", _frechet, "FD", "lower", extra="metrics"),
    _spread("kd", _kd, "KD", "lower", extra="metrics"),
    _one("mmd", _mmd, "MMD", "lower", extra="metrics"),
)
