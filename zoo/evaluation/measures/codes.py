"""Measures of codes: of every tokenizer that has some."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.evaluation.measures.base import Context, Measure, Number

if TYPE_CHECKING:
    from torchmetrics import Metric

    from zoo.evaluation.outcome import Outcome

__all__ = ["MEASURES"]

ALL = ("image", "audio", "shape")
ORDERED = ("image", "shape")
WAYS = {
    "nominal": "as stored",
    "entropy": "by frequency",
    "huffman": "Huffman",
    "coded": "adaptive coder",
}


def _metric(name: str, **fixed: Any) -> Callable[..., Metric]:
    """Builds a metric of `zoo.metrics` for the tokenizer's codebooks."""

    def build(context: Context, /, **options: Any) -> Metric:
        from zoo import metrics

        return getattr(metrics, name)(metrics.alphabets(context.spec), **fixed, **options)

    return build


def _pairs(context: Context, /, **options: Any) -> Metric:
    return _metric("CodePairs", downsample=context.spec.downsample)(context, **options)


def _tokens(metric: Any, outcome: Outcome) -> None:
    metric.update(outcome.tokens)


def _rate(metric: Any, outcome: Outcome) -> None:
    metric.update(outcome.tokens, outcome.extent)


def _details(*names: str) -> Callable[[Any], dict[str, Any]]:
    """Parts of what a metric computes as plain data."""

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return lambda metric: {name: plain(value) for name, value in metric.compute().items() if name in names}


def _cost(name: str, modalities: tuple[str, ...], per: str, unit: str, **more: Number) -> Measure:
    digits = 1 if per == "item" else 3
    numbers = {way: Number(f"{unit}, {title}", None, unit, digits) for way, title in WAYS.items()}
    return Measure(name, modalities, {**numbers, **more}, _metric("CodeRate", per=per), _rate, _details("positions"))


MEASURES: tuple[Measure, ...] = (
    Measure(
        "codes",
        ALL,
        {
            "usage": Number("codes used", "higher", "", 4),
            "perplexity": Number("perplexity", "higher", "", 1),
            "entropy": Number("entropy", None, "bits"),
            "entropy_corrected": Number("entropy (Miller-Madow)", None, "bits"),
            "coverage": Number("codes' distribution seen", None, "", 4),
        },
        _metric("CodeStatistics"),
        _tokens,
        _details(
            "positions", "codebook_usage", "codebook_perplexity", "codebook_entropy", "codebook_entropy_corrected"
        ),
    ),
    _cost("bits", ALL, "item", "bits", tokens=Number("tokens", None, "", 1)),
    _cost("bpp", ("image",), "extent", "bits/pixel"),
    _cost("kbps", ("audio",), "kilo", "kbit/s", tokens=Number("tokens/s", None, "1/s", 1)),
    Measure(
        "compression",
        ALL,
        {
            "huffman": Number("saved by Huffman", None, "", 4),
            "adaptive": Number("saved by adaptive coder", None, "", 4),
            "zlib": Number("saved by zlib", None, "", 4),
            "lzma": Number("saved by LZMA", None, "", 4),
        },
        _metric("CodeCompression"),
        _tokens,
    ),
    Measure(
        "ngrams",
        ALL,
        {
            **{f"zipf_{n}": Number(f"Zipf exponent, {n}-grams", None) for n in range(1, 5)},
            **{f"h_{n}": Number(f"H{n}", None, "bits") for n in range(1, 5)},
            "rate_2": Number("H2 - H1", None, "bits"),
        },
        _metric("CodeNgrams"),
        _tokens,
        _details(
            *(
                f"{name}_{n}"
                for name in ("types", "positions", "plugin", "coverage", "tail", "ranks")
                for n in range(1, 5)
            )
        ),
    ),
    Measure(
        "innovation",
        ALL,
        {
            "heaps": Number("Heaps exponent", None),
            "first": Number("codes in one item", None, "", 1),
            "hundredth": Number("new codes in the 100th item", None, "", 2),
            "share_100": Number("share seen after 100 items", None, "", 4),
        },
        _metric("CodeInnovation"),
        _tokens,
        _details("last", "distinct", "items", "curve"),
    ),
    Measure(
        "pairs",
        ALL,
        {"information": Number("information of neighbours", None, "bits")},
        _pairs,
        _tokens,
        _details("plugin", "pairs", "types", "top"),
    ),
    Measure(
        "positions",
        ORDERED,
        {
            "information": Number("information of the position", None, "bits"),
            "trend": Number("trend of entropy over positions", None),
            "first": Number("entropy of the first token", None, "bits"),
            "last": Number("entropy of the last token", None, "bits"),
        },
        _metric("CodePositions"),
        _tokens,
        _details("plugin", "positions", "entropies"),
    ),
)
