"""Samples of a generator against references: FID, sFID, Inception score, precision and recall, as ADM measures them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.metrics.feature_sets import FeatureMetric
from zoo.metrics.features import Features, open_features
from zoo.metrics.frechet import FrechetDistance
from zoo.metrics.manifold import PrecisionRecall
from zoo.metrics.piles import Pile, Samples, to_levels
from zoo.metrics.reference import Reference, read_reference, write_reference
from zoo.metrics.scores import InceptionScore

__all__ = ["Scores", "evaluate_samples", "write_statistics"]

PUBLISHED = {"samples": 50_000, "references": 10_000}


@dataclass(frozen=True, slots=True)
class Scores:
    """What samples got.

    Attributes:
        numbers: "fid" and "sfid" (or "fd_NETWORK" on another network), "inception_score", "precision", "recall"; what
            could not be measured is missing, and a note says why.
        samples: how many were measured.
        references: how many pictures were compared with; None where the file of statistics does not say.
        protocol: network, its digest, resize, neighbours, splits, and the reference with its digest.
        failed: samples and references that could not be read, with the reason.
        notes: what a reader of the numbers should know.
    """

    numbers: Mapping[str, float]
    samples: int
    references: int | None
    protocol: Mapping[str, Any]
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def evaluate_samples(
    samples: Samples,
    reference: str | Path,
    *,
    network: str = "inception_fid",
    count: int | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    weights: Mapping[str, Path] | None = None,
    neighbours: int = 3,
    splits: int = 10,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Scores:
    """Measure a generator's samples.

    Args:
        samples: a folder, tar shards, an npz file with `arr_0` uint8 (N, H, W, 3), a function from a number to so many
            pictures (B, 3, H, W) in [-1, 1], or an iterable of such batches.
        reference: an npz file of statistics in ADM's layout, whose `arr_0` is compared with for precision and recall;
            or pictures, as a folder, shards or an npz file with `arr_0` alone.
        network: see `zoo.metrics.open_features`. On another than "inception_fid" the Frechet distance has another name,
            and there are no sFID and Inception score.
        count: of samples; None for all there are.
        batch_size: pictures that are read and looked at together.
        device: where the network runs.
        weights: files to take instead of downloads, by the network's name.
        neighbours: k of precision and recall.
        splits: of the Inception score, in the order of the samples, as in ADM's evaluator.
        progress: called with the number of pictures after every batch.
        **options: of the network, such as `resize`.

    Raises:
        FileNotFoundError, ValueError: samples or reference cannot be read, or do not fit the network.
        ConnectionError, ImportError: the network cannot be had.
    """
    taps = _taps(network, weights, options)
    main = taps["pool"]
    found = _reference(reference)
    if found is not None:
        found.check(main)
    distances = {
        _name(tap, main): FrechetDistance(features, reference=None if found is None else found.of(tap)).to(device)
        for tap, features in taps.items()
        if tap != "logits" and (found is None or tap in found.moments)
    }
    nearness = PrecisionRecall(main, neighbours=neighbours).to(device)
    score = InceptionScore(taps["logits"], splits=splits, shuffle=False).to(device) if "logits" in taps else None
    pile = Pile(samples, count, batch_size)
    others = None if found is not None and found.pictures is None else Pile(reference, None, batch_size)
    metrics: list[FeatureMetric] = [*distances.values(), nearness, *([] if score is None else [score])]
    _feed(pile, "output", metrics, device, progress)
    if others is not None:
        _feed(others, "target", [nearness] if found is not None else metrics, device, progress)
    total, compared = int(nearness.count), None if others is None else int(nearness.target_count)
    if total == 0:
        raise ValueError(f"{pile.what} holds no picture that can be measured; {'; '.join(pile.failed[:3])}")
    numbers = {name: float(metric.compute()) for name, metric in distances.items()}
    if score is not None:
        numbers["inception_score"] = float(score.compute()["mean"])
    if others is not None:
        numbers |= {name: float(value) for name, value in nearness.compute().items()}
    notes = [
        *_remarks(pile, others, total, compared, int(nearness.skipped)),
        *(() if found is None else found.notes),
        *([] if "spatial" not in taps or "sfid" in distances else ["no sFID: the reference has no mu_s and sigma_s"]),
        *([] if others else ["no precision and recall: the reference has no pictures (arr_0)"]),
        *(note for metric in metrics for note in metric.notes),
    ]
    protocol = {
        **{key: value for key, value in main.describe().items() if key != "tap"},
        "neighbours": neighbours,
        "splits": splits,
        "samples": pile.describe(),
        "reference": found.describe() if found is not None else others.describe() if others is not None else None,
    }
    return Scores(
        {name: value for name, value in numbers.items() if math.isfinite(value)},
        total,
        found.of("pool").count if found is not None and "pool" in found.moments else compared,
        protocol,
        (*pile.failed, *(() if others is None else others.failed)),
        tuple(dict.fromkeys(notes)),
    )


def _feed(
    pile: Pile, side: str, metrics: Sequence[FeatureMetric], device: str, progress: Callable[[int], None] | None
) -> None:
    """Give pictures to metrics as "output" or "target"."""
    for pictures in pile:
        batch = pictures.to(device)
        for metric in metrics:
            metric.update(**{side: batch})
        if progress is not None:
            progress(len(batch))


def write_statistics(
    path: str | Path,
    pictures: Samples,
    *,
    network: str = "inception_fid",
    count: int | None = None,
    keep: int = PUBLISHED["references"],
    batch_size: int = 32,
    device: str = "cpu",
    weights: Mapping[str, Path] | None = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Path:
    """Write the statistics of reference pictures, in ADM's layout.

    Args:
        path: an .npz file.
        pictures: as `samples` of `evaluate_samples`; they are cut and resized already, as the samples are.
        keep: how many of them are kept in the file for precision and recall, evenly spread; 0 for none. Their sizes are
            equal.
        network, count, batch_size, device, weights, progress, **options: as in `evaluate_samples`.

    Raises:
        ValueError: fewer than two pictures, one that cannot be read, or different sizes.
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"statistics are written as .npz, got {path}")
    taps = {tap: features for tap, features in _taps(network, weights, options).items() if tap != "logits"}
    metrics = {tap: FrechetDistance(features).to(device) for tap, features in taps.items()}
    pile = Pile(pictures, count, batch_size)
    kept: list[np.ndarray] = []
    stride, seen = 1, 0
    for batch in pile:
        for metric in metrics.values():
            metric.update(batch.to(device))
        if keep:
            if len(pile.sizes) > 1:
                raise ValueError(f"pictures of one size can be kept, got {sorted(pile.sizes)}; crop them, or keep=0")
            kept += [picture for place, picture in enumerate(to_levels(batch), seen) if place % stride == 0]
            seen += len(batch)
            while len(kept) >= 2 * keep:
                kept, stride = kept[::2], 2 * stride
        if progress is not None:
            progress(len(batch))
    if pile.failed:
        raise ValueError(f"{len(pile.failed)} pictures cannot be read, such as {pile.failed[0]}; remove or mend them")
    if (count := int(metrics["pool"].count)) < 2:
        raise ValueError(f"statistics need at least two pictures, {pile.what} has {count}")
    moments = {tap: metric.moments() for tap, metric in metrics.items()}
    chosen = [kept[len(kept) * place // keep] for place in range(keep)] if 0 < keep < len(kept) else kept
    about = {key: value for key, value in taps["pool"].describe().items() if key not in ("tap", "dim")}
    return write_reference(path, moments, network=about, pictures=np.stack(chosen) if chosen else None)


def _taps(network: str, weights: Mapping[str, Path] | None, options: Mapping[str, Any]) -> dict[str, Features]:
    """Features by their part in the suite; of other networks than Inception the pooled ones alone."""
    if network != "inception_fid":
        return {"pool": open_features(network, weights=weights, **options)}
    return {tap: open_features(network, tap, weights=weights, **options) for tap in ("pool", "spatial", "logits")}


def _name(tap: str, main: Features) -> str:
    if main.name.startswith("inception_fid"):
        return {"pool": "fid", "spatial": "sfid"}[tap]
    return f"fd_{main.name}"


def _reference(path: str | Path) -> Reference | None:
    """A file of statistics; None for pictures."""
    if Path(path).suffix != ".npz":
        return None
    found = read_reference(path)
    return found if found.moments else None


def _remarks(pile: Pile, others: Pile | None, samples: int, references: int | None, skipped: int) -> Iterator[str]:
    """What makes numbers not comparable with published ones."""
    if samples != PUBLISHED["samples"]:
        yield f"{samples} samples, published numbers have {PUBLISHED['samples']}"
    if references is not None and references != PUBLISHED["references"]:
        yield f"precision and recall against {references} pictures, published numbers have {PUBLISHED['references']}"
    if skipped:
        yield f"{skipped} samples with NaN in them were left out"
    for what, side in (("samples", pile), ("references", others)):
        if side is not None and len(side.sizes) > 1:
            yield f"{what} of {len(side.sizes)} sizes"
        if side is not None and side.failed:
            yield f"{len(side.failed)} {what} could not be read"
    if others is not None and pile.sizes != others.sizes:
        sizes = " and ".join(", ".join(f"{h} x {w}" for h, w in sorted(side.sizes)[:3]) for side in (pile, others))
        yield f"samples and references have different sizes: {sizes}"
