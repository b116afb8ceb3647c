"""Numbers that say how good a reconstruction is and how codes are used; torchmetrics is imported when one is needed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.metrics.codecs import Compressed, Format, compress, compress_at, thumbnail
from zoo.metrics.coder import adaptive_bits, huffman_bits, range_decode, range_encode
from zoo.metrics.codes import codebook_perplexity, codebook_usage, coverage, miller_madow
from zoo.metrics.images import bits_per_pixel, lpips, ms_ssim, psnr, ssim
from zoo.metrics.prefixes import PrefixCurve, bd_quality, bd_rate
from zoo.metrics.strands import alphabets
from zoo.metrics.zipf import zipf_exponent, zipf_tail

if TYPE_CHECKING:
    from zoo.metrics.audio import (
        DNSMOS,
        PESQ,
        SDR,
        SISDR,
        STOI,
        UTMOS,
        LogMelDistance,
        MelDistance,
        PitchAgreement,
        SpeakerSimilarity,
        STFTDistance,
        WaveformDistance,
        WordErrorRate,
    )
    from zoo.metrics.features import Features, open_features
    from zoo.metrics.frechet import FrechetDistance, Moments, frechet_distance
    from zoo.metrics.generation import Scores, evaluate_samples, write_statistics
    from zoo.metrics.kernel import GaussianDistance, KernelDistance
    from zoo.metrics.language import CodeInnovation, CodeNgrams
    from zoo.metrics.manifold import PrecisionRecall
    from zoo.metrics.pictures import LPIPS, MSSSIM, PSNR, SSIM
    from zoo.metrics.rates import CodeCompression, CodeRate
    from zoo.metrics.reference import Reference, read_reference
    from zoo.metrics.relations import CodePairs, CodePositions
    from zoo.metrics.scores import InceptionScore
    from zoo.metrics.shapes import SurfaceDistance, SurfaceFidelity, VolumeIoU, sampling_floor
    from zoo.metrics.usage import CodeStatistics

__all__ = [
    "CodeCompression",
    "CodeInnovation",
    "CodeNgrams",
    "CodePairs",
    "CodePositions",
    "CodeRate",
    "CodeStatistics",
    "Compressed",
    "DNSMOS",
    "Features",
    "Format",
    "FrechetDistance",
    "GaussianDistance",
    "InceptionScore",
    "KernelDistance",
    "LPIPS",
    "LogMelDistance",
    "MSSSIM",
    "MelDistance",
    "Moments",
    "PESQ",
    "PSNR",
    "PitchAgreement",
    "PrecisionRecall",
    "PrefixCurve",
    "Reference",
    "SDR",
    "SISDR",
    "SSIM",
    "STFTDistance",
    "STOI",
    "Scores",
    "SpeakerSimilarity",
    "SurfaceDistance",
    "SurfaceFidelity",
    "UTMOS",
    "VolumeIoU",
    "WaveformDistance",
    "WordErrorRate",
    "adaptive_bits",
    "alphabets",
    "bd_quality",
    "bd_rate",
    "bits_per_pixel",
    "codebook_perplexity",
    "codebook_usage",
    "compress",
    "compress_at",
    "coverage",
    "evaluate_samples",
    "frechet_distance",
    "huffman_bits",
    "lpips",
    "miller_madow",
    "ms_ssim",
    "open_features",
    "psnr",
    "range_decode",
    "range_encode",
    "read_reference",
    "sampling_floor",
    "ssim",
    "thumbnail",
    "write_statistics",
    "zipf_exponent",
    "zipf_tail",
]

# what needs torchmetrics, imported when one is asked for
LAZY = {
    **dict.fromkeys(("Features", "open_features"), "zoo.metrics.features"),
    **dict.fromkeys(("FrechetDistance", "Moments", "frechet_distance"), "zoo.metrics.frechet"),
    **dict.fromkeys(("Scores", "evaluate_samples", "write_statistics"), "zoo.metrics.generation"),
    **dict.fromkeys(("LPIPS", "MSSSIM", "PSNR", "SSIM"), "zoo.metrics.pictures"),
    **dict.fromkeys(("Reference", "read_reference"), "zoo.metrics.reference"),
    "InceptionScore": "zoo.metrics.scores",
    **dict.fromkeys(("GaussianDistance", "KernelDistance"), "zoo.metrics.kernel"),
    "PrecisionRecall": "zoo.metrics.manifold",
    "CodeStatistics": "zoo.metrics.usage",
    **dict.fromkeys(("CodeInnovation", "CodeNgrams"), "zoo.metrics.language"),
    **dict.fromkeys(("CodeCompression", "CodeRate"), "zoo.metrics.rates"),
    **dict.fromkeys(("CodePairs", "CodePositions"), "zoo.metrics.relations"),
    **dict.fromkeys(
        (
            *(
                "DNSMOS",
                "LogMelDistance",
                "MelDistance",
                "PESQ",
                "PitchAgreement",
                "SDR",
                "SISDR",
                "STFTDistance",
                "STOI",
            ),
            *("SpeakerSimilarity", "UTMOS", "WaveformDistance", "WordErrorRate"),
        ),
        "zoo.metrics.audio",
    ),
    **dict.fromkeys(("SurfaceDistance", "SurfaceFidelity", "VolumeIoU", "sampling_floor"), "zoo.metrics.shapes"),
}


def __getattr__(name: str) -> Any:
    if module := LAZY.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
