"""The usual runner: this process, or all that `torchrun` starts. They share nothing but the folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from zoo.export.claims import Claims
from zoo.export.core import FINISH, Export
from zoo.export.format import Manifest
from zoo.export.work import Worker

__all__ = ["run_local"]

POLL = 0.5  # seconds


def run_local(worker: Worker, done: Callable[[int, int], None] = lambda number, items: None) -> Manifest:
    """Make every shard that no other process makes, wait for those that others do, and write the manifest.

    Shards of processes that die are taken over.
    """
    export = worker.export
    with export.claims() as claims:
        while not export.done:
            try:
                worker.run(_claimed(export, claims), lambda number, items: _release(claims, done, number, items))
            except FileNotFoundError:  # another process has ended the export and tidied up
                if not export.done:
                    raise
            if export.done:
                break
            if len(export.recorded()) == len(export) and claims.take(FINISH):
                return export.finish()
            time.sleep(POLL)
    return export.finish()


def _claimed(export: Export, claims: Claims) -> Iterator[int]:
    """Numbers that are neither done nor claimed by another, each claimed when it is asked for; ranks begin apart."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    first, recorded = len(export) * rank // max(1, world), export.recorded()
    for step in range(len(export)):
        number = (first + step) % len(export)
        if number in recorded or not claims.take(f"{number:05d}"):
            continue
        if number in export.recorded():  # done between looking and claiming
            claims.release(f"{number:05d}")
            continue
        yield number


def _release(claims: Claims, done: Callable[[int, int], None], number: int, items: int) -> None:
    if number >= 0:
        claims.release(f"{number:05d}")
    done(number, items)
