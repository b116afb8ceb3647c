"""Numbers that say how good a reconstruction is and how codes are used; torchmetrics is imported when one is needed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.metrics.codecs import Compressed, Format, compress, compress_at, thumbnail
from zoo.metrics.codes import codebook_perplexity, codebook_usage
from zoo.metrics.images import bits_per_pixel, lpips, psnr, ssim

if TYPE_CHECKING:
    from zoo.metrics.audio import DNSMOS, PESQ, SISDR, STOI, LogMelDistance
    from zoo.metrics.shapes import SurfaceDistance, VolumeIoU, sampling_floor
    from zoo.metrics.usage import CodeStatistics

__all__ = [
    "CodeStatistics",
    "Compressed",
    "DNSMOS",
    "Format",
    "LogMelDistance",
    "PESQ",
    "SISDR",
    "STOI",
    "SurfaceDistance",
    "VolumeIoU",
    "bits_per_pixel",
    "codebook_perplexity",
    "codebook_usage",
    "compress",
    "compress_at",
    "lpips",
    "psnr",
    "sampling_floor",
    "ssim",
    "thumbnail",
]

# what needs torchmetrics, imported when one is asked for
LAZY = {
    "CodeStatistics": "zoo.metrics.usage",
    **dict.fromkeys(("DNSMOS", "LogMelDistance", "PESQ", "SISDR", "STOI"), "zoo.metrics.audio"),
    **dict.fromkeys(("SurfaceDistance", "VolumeIoU", "sampling_floor"), "zoo.metrics.shapes"),
}


def __getattr__(name: str) -> Any:
    if module := LAZY.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
