"""Items of a data folder: their digest, and reading ahead of the tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from zoo.data.sources import Source
from zoo.evaluation.ranks import World

__all__ = ["Item", "digest_of", "grouped", "read_ahead"]

T = TypeVar("T")
Item = tuple[int, Any]


def digest_of(source: Source, count: int, world: World, *, threads: int = 2) -> str:
    """sha256 over names and contents of the first items, in order; a file that cannot be read counts as such.

    Every process reads its share; all of them call this.
    """

    def one(index: int) -> str:
        try:
            return hashlib.sha256(source.read(index)).hexdigest()
        except OSError:
            return "unreadable"

    with ThreadPoolExecutor(threads) as pool:
        mine = list(pool.map(one, world.mine(count)))
    shares = world.gather(mine)
    whole = hashlib.sha256()
    for index in range(count):
        line = json.dumps([source.names[index], shares[index % world.size][index // world.size]])
        whole.update(f"{line}\n".encode())
    return whole.hexdigest()


def read_ahead(
    source: Source, indices: Iterable[int], read: Callable[[bytes, str], T], *, ahead: int, threads: int = 2
) -> Iterator[tuple[int, T | Exception]]:
    """Items in order, read by other threads while the tokenizer works; an item that cannot be had is its error.

    Args:
        ahead: items that are read and wait at most.
    """

    def one(index: int) -> T | Exception:
        try:
            return read(source.read(index), source.names[index])
        except Exception as error:
            return error

    remaining = iter(indices)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[int, Future[T | Exception]]] = deque()
        try:
            waiting.extend((index, pool.submit(one, index)) for index in islice(remaining, ahead))
            while waiting:
                index, future = waiting.popleft()
                item = future.result()
                waiting.extend((later, pool.submit(one, later)) for later in islice(remaining, 1))
                yield index, item
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def grouped(items: Iterable[Item], shape: Callable[[Any], Hashable], size: int) -> Iterator[Sequence[Item]]:
    """Groups of at most `size` items of equal shape; at most `4 * size` items wait for others of theirs."""
    waiting: dict[Hashable, list[Item]] = {}
    for index, item in items:
        key = shape(item)
        group = waiting.setdefault(key, [])
        group.append((index, item))
        if len(group) == size:
            yield waiting.pop(key)
        elif sum(map(len, waiting.values())) >= 4 * size:
            yield waiting.pop(max(waiting, key=lambda found: len(waiting[found])))
    yield from waiting.values()
