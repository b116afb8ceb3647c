"""What one process does: it decodes files in threads while the model runs, and commits shards while both go on."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.export.core import Export
from zoo.export.format import Failure, Row
from zoo.export.inputs import Facts, Inputs
from zoo.export.readers import Reader, Sample, SoundReader
from zoo.tokens import Tokens

__all__ = ["Worker", "default_workers"]

QUEUED = 3  # batches that wait for the model
FATAL = (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError)


@dataclass(frozen=True, slots=True)
class Read:
    """An item after it was read: ready, or failed."""

    index: int
    sample: Sample | None
    facts: Facts
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that go through together: (B, C, ...), and (B,) lengths where they differ; or one sound that is long."""

    number: int
    items: list[Read]
    values: Tensor
    lengths: Tensor | None
    long: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """No more batches of a shard."""

    number: int
    failures: list[Failure]


@dataclass(slots=True)
class Result:
    """What there is of a shard."""

    rows: dict[int, Row] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


class Worker:
    """Turns parts of the inputs into shards.

    Args:
        export: where they go.
        inputs: where they come from.
        reader: how items become tokens.
        threads: that read and decode files.
    """

    def __init__(self, export: Export, inputs: Inputs, reader: Reader, threads: int) -> None:
        self.export, self.inputs, self.reader, self.threads = export, inputs, reader, threads

    def run(self, numbers: Iterator[int], done: Callable[[int, int], None] = lambda number, items: None) -> None:
        """Make shards.

        Args:
            numbers: of the shards; asked for when there is room to read ahead.
            done: called with a shard's number and the items of its part after it was recorded, and with -1 and the
                items of each batch before that.
        """
        results: dict[int, Result] = {}
        pending: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1) as later:
            for event in self._ahead(numbers):
                if isinstance(event, Batch):
                    result = results.setdefault(event.number, Result())
                    pending += [later.submit(self._keep, *pair, result) for pair in self._encode(event, result)]
                    done(-1, len(event.items))
                else:
                    result = results.pop(event.number, Result())
                    result.failures |= {failure.id: failure for failure in event.failures}
                    pending.append(later.submit(self._commit, event.number, result, done))
                while len(pending) > QUEUED:
                    pending.popleft().result()
            for future in pending:
                future.result()

    def _commit(self, number: int, result: Result, done: Callable[[int, int], None]) -> None:
        part, names = self.inputs.parts[number], self.inputs.source.names
        rows = [result.rows[index] for index in sorted(result.rows)]
        failed = [result.failures[name] for name in names[part.start : part.stop] if name in result.failures]
        self.export.commit(number, rows, failed)
        done(number, part.stop - part.start)

    def _encode(self, batch: Batch, result: Result) -> list[tuple[list[Read], Tokens]]:
        """Items with their tokens, by the batch; items that fail together are tried one by one."""
        try:
            if batch.long:
                assert isinstance(self.reader, SoundReader)
                return [(batch.items, self.reader.encode_long(self.inputs.source, batch.items[0].index))]
            captions = [item.facts.caption or "" for item in batch.items]
            return [(batch.items, self.reader.encode(batch.values, batch.lengths, captions))]
        except FATAL as error:
            raise RuntimeError(f"the device gave up ({error}); try a smaller --batch-size or --chunk") from error
        except Exception as error:
            if len(batch.items) == 1:
                self._fail(batch.items[0].index, error, result)
                return []
            singles = self._batches(batch.number, batch.items, 1)
            return [pair for single in singles for pair in self._encode(single, result)]

    def _keep(self, items: Sequence[Read], tokens: Tokens, result: Result) -> None:
        """Put the rows of a batch into the result."""
        for place, item in enumerate(items):
            try:
                row = self._row(item, self.reader.kept(tokens[place]))
                self.export.format.check(row)
                result.rows[item.index] = row
            except (ValueError, RuntimeError) as error:
                self._fail(item.index, error, result)

    def _fail(self, index: int, error: Exception, result: Result) -> None:
        failure = self._failure(index, error)
        result.failures[failure.id] = failure

    def _row(self, item: Read, tokens: Tokens) -> Row:
        facts = item.facts
        size = None if item.sample is None else item.sample.size
        own = self.export.plan.layout.row(tokens if size is None else replace(tokens, size=size))
        label = None if isinstance(facts.label, int) and facts.label < 0 else facts.label
        return {
            "id": self.inputs.source.names[item.index],
            **own,
            "label": label,
            "caption": facts.caption,
        } | facts.metadata

    def _failure(self, index: int, error: Exception) -> Failure:
        return Failure(self.inputs.source.names[index], type(error).__name__, str(error))

    def _read(self, index: int) -> Read:
        try:
            return Read(index, self.reader.read(self.inputs.source, index), self.inputs.facts(index))
        except FATAL:
            raise
        except Exception as error:
            return Read(index, None, Facts(), self._failure(index, error))

    def _ahead(self, numbers: Iterator[int]) -> Iterator[Batch | Ended]:
        """The events of `_events`, from a thread that is some batches ahead."""
        events: queue.Queue[Any] = queue.Queue(QUEUED)
        stop = threading.Event()

        def put(event: object) -> None:
            while not stop.is_set():
                try:
                    events.put(event, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def produce() -> None:
            try:
                with ThreadPoolExecutor(self.threads) as pool:
                    for event in self._events(numbers, pool):
                        put(event)
                        if stop.is_set():
                            pool.shutdown(cancel_futures=True)
                            return
                put(None)
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=produce, daemon=True)
        thread.start()
        try:
            while (event := events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            stop.set()
            thread.join()

    def _events(self, numbers: Iterator[int], pool: ThreadPoolExecutor) -> Iterator[Batch | Ended]:
        """Batches of shard after shard, and the end of each; some windows are read ahead, over the ends of shards."""
        waiting: deque[tuple[int, bool, list[Future[Read]]]] = deque()
        ahead = max(2, -(-2 * self.threads // self.reader.window))
        failures: list[Failure] = []
        windows = self._windows(numbers)
        while True:
            while len(waiting) < ahead and (window := next(windows, None)) is not None:
                number, items, last = window
                waiting.append((number, last, [pool.submit(self._read, index) for index in items]))
            if not waiting:
                return
            number, last, futures = waiting.popleft()
            found = [future.result() for future in futures]
            failures += [item.failure for item in found if item.failure is not None]
            yield from self._batches(number, [item for item in found if item.failure is None])
            if last:
                yield Ended(number, failures)
                failures = []

    def _windows(self, numbers: Iterator[int]) -> Iterator[tuple[int, range, bool]]:
        size = self.reader.window
        for number in numbers:
            part = self.inputs.parts[number]
            for start in range(part.start, part.stop, size):
                stop = min(start + size, part.stop)
                yield number, range(start, stop), stop == part.stop

    def _batches(self, number: int, items: Sequence[Read], size: int | None = None) -> Iterator[Batch]:
        """Items by the batch, of at most `size`."""
        samples = [item.sample for item in items if item.sample is not None]
        for places in self.reader.batches(samples, size or self.reader.request.batch_size):
            values, lengths = self.reader.stack([samples[place] for place in places])
            if self.reader.tokenizer.device.type == "cuda":
                values = values.pin_memory()
            yield Batch(number, [items[place] for place in places], values, lengths, samples[places[0]].long)


def default_workers() -> int:
    """Threads that decode files: as many as there are processors, of those that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, count))
