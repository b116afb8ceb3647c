"""Batch jobs: progress, equal sizes together, bad items on record instead of in the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer

from zoo.cli.inputs import Item

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.data.images import Fit
    from zoo.spec import TokenizerSpec

__all__ = ["Job", "Sample", "fit_to", "load_samples", "run_batches"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture ready for a tokenizer.

    Attributes:
        target: where its result goes.
        image: (3, h, w) in [-1, 1], fitted.
        fit: what undoes the fit.
    """

    item: Item
    target: Path
    image: Tensor
    fit: Fit


class Job:
    """Counts items, shows a progress bar, and writes failures to `errors.jsonl`, one JSON object a line.

    A record of an earlier run at the same place is removed first.

    Args:
        label: what the bar says.
        total: items.
        errors: the file for failures; it exists only if there are some.

    Attributes:
        notes: lines to tell at the end.
    """

    def __init__(self, label: str, total: int, errors: Path) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.progress.add_task(label, total=total)
        self.errors, self.done, self.skipped, self.failed = errors, 0, 0, 0
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        self.errors.unlink(missing_ok=True)
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        parts = [f"{self.done} done"]
        parts += [f"{self.skipped} skipped because they exist (--overwrite)"] if self.skipped else []
        parts += [f"[bold red]{self.failed} failed[/], see {self.errors}"] if self.failed else []
        self.console.print(", ".join(parts), highlight=False)
        for note in self.notes:
            self.console.print(note, highlight=False, markup=False)
        if error is None and self.failed:
            raise typer.Exit(1)

    def finish(self) -> None:
        """Count one item as done."""
        self.done += 1
        self.progress.advance(self.task)

    def skip(self) -> None:
        """Count one item as present already."""
        self.skipped += 1
        self.progress.advance(self.task)

    def fail(self, item: Item, error: Exception) -> None:
        """Record a failed item and go on."""
        self.failed += 1
        self.errors.parent.mkdir(parents=True, exist_ok=True)
        record = {"input": str(item.path), "error": type(error).__name__, "message": str(error)}
        with self.errors.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.progress.advance(self.task)

    @contextmanager
    def guard(self, item: Item) -> Iterator[None]:
        """Count the item as done when the block ends, or as failed when it raises."""
        try:
            yield
        except Exception as error:
            self.fail(item, error)
        else:
            self.finish()


def load_samples(
    job: Job,
    spec: TokenizerSpec,
    pairs: Iterable[tuple[Item, Path]],
    *,
    mode: str,
    max_side: int | None,
    overwrite: bool,
) -> Iterator[Sample]:
    """Read and fit pictures for a tokenizer; those that exist or cannot be read are counted and left out."""
    from zoo.data.images import read_image

    for item, target in pairs:
        if target.exists() and not overwrite:
            job.skip()
            continue
        try:
            size = None if spec.any_size else (spec.input_shape[1], spec.input_shape[2])
            image, record = fit_to(size, read_image(item.path), mode, max_side)
        except (ValueError, OSError) as error:
            job.fail(item, error)
            continue
        yield Sample(item, target, image, record)


def run_batches(
    job: Job, samples: Iterable[Sample], size: int, work: Callable[[Tensor, Sequence[Sample]], None]
) -> None:
    """Call `work(batch (B, 3, h, w), samples)` on samples of equal size; it counts each as done or failed itself.

    When a batch of several fails as a whole (out of memory, one bad item), its items run one by one.
    """
    import torch

    for group in _grouped(samples, size):
        try:
            work(torch.stack([sample.image for sample in group]), group)
        except Exception as error:
            if len(group) == 1:
                job.fail(group[0].item, error)
                continue
            for sample in group:
                try:
                    work(sample.image[None], [sample])
                except Exception as single:
                    job.fail(sample.item, single)


def _grouped(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Groups of equal image size; at most `4 * size` images wait for others of their size."""
    waiting: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        group = waiting.setdefault(tuple(sample.image.shape), [])
        group.append(sample)
        if len(group) == size:
            yield waiting.pop(tuple(sample.image.shape))
        elif sum(map(len, waiting.values())) >= 4 * size:
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()


def fit_to(size: tuple[int, int] | None, image: Tensor, mode: str, max_side: int | None) -> tuple[Tensor, Fit]:
    """A picture (3, H, W) at a size (h, w); at its own, but with no side longer than `max_side`, where that is None."""
    from zoo.data.images import fit

    height, width = image.shape[1:]
    if size is None:
        scale = min(1.0, (max_side or max(height, width)) / max(height, width))
        return fit(image, (max(1, round(height * scale)), max(1, round(width * scale))), "stretch")
    return fit(image, size, mode)  # type: ignore[arg-type]
