"""The runner on Ray Data: actors that process whole shards, on one machine or a cluster.

An actor runs the same core as the local runner, so its files are the same, byte for byte. Ray hands out the numbers of
shards, which is all that passes through it: neither the size of its blocks nor its own checkpoints matter.

Every machine of a cluster must see the data and the output folder under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zoo.export.core import FINISH
from zoo.export.format import Manifest
from zoo.export.job import open_worker
from zoo.export.request import Request
from zoo.export.work import Worker

__all__ = ["ShardActor", "run_ray"]

NEED = "--engine ray needs Ray Data; install it with: pip install 'tokenizer-zoo[ray]'"


class ShardActor:
    """Holds a tokenizer, and makes the shards whose numbers it is given.

    Args:
        request, folder, device, workers: as for `run_export`.
        threads: of torch for one operation, as in the other processes, so that sums are rounded alike.
        place: the folder that paths are relative to.
    """

    def __init__(
        self, request: Request, folder: str, device: str, workers: int | None, threads: int, place: str
    ) -> None:
        if Path(place).is_dir():
            os.chdir(place)
        torch.set_num_threads(threads)
        self.worker = open_worker(request, folder, device=device, workers=workers)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards `batch["number"]` that no other process makes; gives the batch back."""
        export = self.worker.export
        with export.claims() as claims:
            for number in batch["number"].tolist():
                if number in export.recorded() or not claims.take(f"{number:05d}"):
                    continue
                self.worker.run(iter([number]))
                claims.release(f"{number:05d}")
        return batch


def run_ray(
    worker: Worker,
    device: str,
    *,
    actors: int = 1,
    done: Callable[[int, int], None] = lambda number, items: None,
) -> Manifest:
    """Make every shard that is missing on the actors of Ray, and write the manifest.

    Joins the cluster of this machine if one runs (`ray start`), and starts a small one in this process if not.

    Args:
        worker: of this process, which only plans; see `open_worker`.
        device: of the tokenizers; with "cuda" every actor gets a GPU of its own.
        actors: that work at once.
        done: as for `run_export`, for whole shards.

    Raises:
        ValueError: Ray is not installed.
        RuntimeError: it cannot start, or shards are missing at the end.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
    except ImportError as error:
        raise ValueError(f"{NEED} ({error})") from error
    export, request = worker.export, worker.reader.request
    missing = [] if export.done else sorted(set(range(len(export))) - export.recorded())
    if missing:
        started = _start(ray, actors)
        try:
            DataContext.get_current().enable_progress_bars = False
            arguments = {
                "request": request,
                "folder": str(Path(export.folder).absolute()),
                "device": device.partition(":")[0],
                "workers": worker.threads,
                "threads": torch.get_num_threads(),
                "place": str(Path.cwd()),
            }
            numbers = ray.data.from_items([{"number": number} for number in missing], override_num_blocks=len(missing))
            made = numbers.map_batches(
                ShardActor,
                fn_constructor_kwargs=arguments,
                batch_size=1,
                num_cpus=1,
                num_gpus=1 if device.startswith("cuda") else 0,
                compute=ActorPoolStrategy(size=min(actors, len(missing))),
            )
            for batch in made.iter_batches(batch_size=1):
                for number in batch["number"].tolist():
                    part = worker.inputs.parts[number]
                    done(number, part.stop - part.start)
        finally:
            if started:
                ray.shutdown()
    if not export.done and (left := len(export) - len(export.recorded())):
        raise RuntimeError(f"{left} of {len(export)} shards are not done: others work on them, or failed; run it again")
    with export.claims() as claims:
        if not export.done and not claims.take(FINISH):
            raise RuntimeError(f"another process ends the export in {export.folder}; run it again to see its result")
        return export.finish()


def _start(ray: Any, actors: int) -> bool:
    """Join a cluster, or start one; whether it was started here."""
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"logging_level": "WARNING", "log_to_driver": False}
    try:
        ray.init(address="auto", **options)
        return True
    except ConnectionError:
        pass
    try:
        ray.init(num_cpus=actors + 2, include_dashboard=False, **options)
    except Exception as error:
        raise RuntimeError(f"Ray does not start here ({error}); try again, or use --engine local") from error
    return True
