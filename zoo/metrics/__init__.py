"""Numbers that say how good a reconstruction is; torchmetrics is imported when one is computed."""

from zoo.metrics.codecs import Compressed, Format, compress, thumbnail
from zoo.metrics.codes import codebook_perplexity, codebook_usage
from zoo.metrics.images import bits_per_pixel, psnr, ssim

__all__ = [
    "Compressed",
    "Format",
    "bits_per_pixel",
    "codebook_perplexity",
    "codebook_usage",
    "compress",
    "psnr",
    "ssim",
    "thumbnail",
]
