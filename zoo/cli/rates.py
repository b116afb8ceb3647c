"""Rate and quality of pictures after tokenizers and after JPEG and WebP: the numbers of `zoo curve`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Any

from zoo.cli.options import DtypeName, precision

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.cli.inputs import Item
    from zoo.cli.jobs import Job
    from zoo.cli.sampling import Sampling
    from zoo.data.images import Fit
    from zoo.metrics import Format
    from zoo.tokenizer import Tokenizer

__all__ = ["Entry", "Protocol", "Row", "measure_all"]

Row = dict[str, Any]
Size = tuple[int, int] | None
QUALITIES: dict[Format, tuple[int, ...]] = {
    "JPEG": (1, 5, 10, 20, 35, 50, 70, 85, 95),
    "WebP": (0, 5, 10, 20, 35, 50, 70, 85, 95),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tokenizer to measure.

    Attributes:
        name: under which its rows stand.
        size: (h, w) at which it sees pictures; None for their own.
        counts: tokens that it keeps, [None] for the whole code.
    """

    name: str
    tokenizer: Tokenizer
    size: Size
    counts: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How pictures are measured.

    Attributes:
        metrics: functions of `zoo.metrics`.
        fit: how pictures are brought to a size.
        max_side: of pictures that keep their size.
        baselines: measure JPEG and WebP too.
        dtype: of encoders and decoders.
        sampling: of decoders that paint by steps.
        batch_size: pictures that run together.
    """

    metrics: Sequence[str]
    fit: str
    max_side: int | None
    baselines: bool
    dtype: DtypeName
    sampling: Sampling
    batch_size: int


def measure_all(job: Job, items: Sequence[Item], entries: Sequence[Entry], protocol: Protocol) -> list[Row]:
    """Means over the pictures, a row for every tokenizer and length and every format and quality.

    A row has `name`, `size`, `setting` (tokens kept, or quality), `tokens` (of a tokenizer), `bits` and
    `bits_per_pixel` (where there are codes), one entry for each metric, and `pictures`. A picture that fails is counted
    by the job and is in no row.
    """
    totals: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for start in range(0, len(items), protocol.batch_size):
        batch = list(_read(job, items[start : start + protocol.batch_size]))
        for item, rows in _each(job, batch, entries, protocol):
            with job.guard(item):
                for row in rows:
                    totals[row["name"], row["size"], row["setting"]].append(row)
    return [_mean(rows) for rows in totals.values()]


def _read(job: Job, items: Sequence[Item]) -> Iterator[tuple[Item, Tensor]]:
    from zoo.data.images import read_image

    for item in items:
        try:
            yield item, read_image(item.path)
        except (ValueError, OSError) as error:
            job.fail(item, error)


def _each(
    job: Job, batch: Sequence[tuple[Item, Tensor]], entries: Sequence[Entry], protocol: Protocol
) -> Iterator[tuple[Item, list[Row]]]:
    """Every row of each picture. Pictures that fail together run one by one."""
    try:
        rows = _rows([image for _, image in batch], entries, protocol)
    except Exception as error:
        if len(batch) == 1:
            job.fail(batch[0][0], error)
            return
        for single in batch:
            yield from _each(job, [single], entries, protocol)
    else:
        yield from ((item, found) for (item, _), found in zip(batch, rows, strict=True))


def _rows(images: Sequence[Tensor], entries: Sequence[Entry], protocol: Protocol) -> list[list[Row]]:
    from zoo.cli.jobs import fit_to

    rows: list[list[Row]] = [[] for _ in images]
    for size in dict.fromkeys(entry.size for entry in entries):
        views = [fit_to(size, image, protocol.fit, protocol.max_side) for image in images]
        shapes = [tuple(image.shape) for image, _ in views]
        for _, group in groupby(sorted(range(len(views)), key=shapes.__getitem__), key=shapes.__getitem__):
            numbers = list(group)
            for entry in entries:
                if entry.size == size:
                    found = _codes(entry, [views[number] for number in numbers], protocol)
                    for number, some in zip(numbers, found, strict=True):
                        rows[number] += some
        for number, (image, record) in enumerate(views if protocol.baselines else []):
            rows[number] += _files(record.trim(image), size, protocol)
    return rows


def _codes(entry: Entry, views: Sequence[tuple[Tensor, Fit]], protocol: Protocol) -> list[list[Row]]:
    """Of pictures of one size, each with the rows of a tokenizer at all lengths."""
    import torch

    tokenizer = entry.tokenizer
    rows: list[list[Row]] = [[] for _ in views]
    with torch.inference_mode(), precision(tokenizer, protocol.dtype):
        code = tokenizer.encode(torch.stack([image for image, _ in views]).to(tokenizer.device))
        for count in entry.counts:
            part = code if count is None else code.keep(count)
            outputs = tokenizer.decode(part, **protocol.sampling.options(tokenizer)).float().cpu()
            kept, bits = part.mask.sum(1), None if tokenizer.spec.continuous else part.bits()
            for number, (image, record) in enumerate(views):
                target = record.trim(image)
                row = {"name": entry.name, "size": entry.size, "setting": count, "tokens": int(kept[number])}
                row |= {} if bits is None else _cost(float(bits[number]), target)
                rows[number].append(row | _quality(record.trim(outputs[number]), target, protocol))
    return rows


def _files(image: Tensor, size: Size, protocol: Protocol) -> Iterator[Row]:
    """Rows of JPEG and WebP."""
    from zoo.metrics import compress_at

    for kind, qualities in QUALITIES.items():
        for quality in qualities:
            file = compress_at(image, quality, kind)
            row: Row = {"name": kind, "size": size, "setting": quality, **_cost(8.0 * file.size, image)}
            yield row | _quality(file.image, image, protocol)


def _cost(bits: float, image: Tensor) -> Row:
    return {"bits": bits, "bits_per_pixel": bits / image[0].numel()}


def _quality(output: Tensor, target: Tensor, protocol: Protocol) -> Row:
    from zoo import metrics

    return {name: float(getattr(metrics, name)(output[None], target[None])) for name in protocol.metrics}


def _mean(rows: Sequence[Row]) -> Row:
    fixed = {key: rows[0][key] for key in ("name", "size", "setting")}
    return {
        **fixed,
        **{key: fmean(row[key] for row in rows) for key in rows[0] if key not in fixed},
        "pictures": len(rows),
    }
