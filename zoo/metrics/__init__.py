"""Numbers that say how good a reconstruction is and how codes are used; torchmetrics is imported when one is needed."""

from typing import TYPE_CHECKING, Any

from zoo.metrics.codecs import Compressed, Format, compress, compress_at, thumbnail
from zoo.metrics.codes import codebook_perplexity, codebook_usage
from zoo.metrics.images import bits_per_pixel, lpips, psnr, ssim

if TYPE_CHECKING:
    from zoo.metrics.usage import CodeStatistics

__all__ = [
    "CodeStatistics",
    "Compressed",
    "Format",
    "bits_per_pixel",
    "codebook_perplexity",
    "codebook_usage",
    "compress",
    "compress_at",
    "lpips",
    "psnr",
    "ssim",
    "thumbnail",
]


def __getattr__(name: str) -> Any:
    if name == "CodeStatistics":
        from zoo.metrics.usage import CodeStatistics

        return CodeStatistics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
