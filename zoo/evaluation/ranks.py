"""Several processes as one: who takes which items, and how they tell each other what they found."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = ["World", "joined", "launch"]

T = TypeVar("T")
RANK, SIZE, LOCAL = "RANK", "WORLD_SIZE", "LOCAL_RANK"


@dataclass(frozen=True, slots=True)
class World:
    """The processes that measure together; rank r of W takes the items r, r + W, ...

    Attributes:
        rank: of this process.
        size: processes.
        device: of this process.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Which of so many items are this process's."""
        return range(self.rank, count, self.size)

    def gather(self, value: T) -> list[T]:
        """What every process says, by rank; all of them call it."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def told(self, value: T) -> T:
        """What the first process says; all of them call it."""
        return self.gather(value)[0]


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The world of this process: that of `torchrun` or `launch`, else it is alone.

    A group of torch.distributed is made unless there is one, gloo for tensors on the CPU and nccl for those on GPUs.

    Args:
        device: of one process; "cuda" gives each of several its own.
    """
    made = False
    if not dist.is_initialized() and int(os.environ.get(SIZE, "1")) > 1:
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(_device(device))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        made = True
    try:
        if dist.is_initialized():
            yield World(dist.get_rank(), dist.get_world_size(), _device(device))
        else:
            yield World(device=device)
    finally:
        if made:
            dist.destroy_process_group()


def launch(count: int, function: Callable[..., T], options: Mapping[str, Any]) -> T:
    """Call a function in so many processes on this machine, which `joined` makes one world.

    Args:
        count: processes.
        function: of a module, so that other processes find it.
        options: its arguments by name, which go to every process.

    Returns:
        What it returns in the first process.

    Raises:
        ValueError, KeyError, OSError, RuntimeError: as the function did in any of them; the others are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        threads = max(1, torch.get_num_threads() // count)
        arguments = (function, dict(options), count, threads, folder)
        processes = torch.multiprocessing.spawn(_process, arguments, nprocs=count, join=False)
        try:
            while not processes.join():
                pass
        except Exception:
            with suppress(FileNotFoundError):
                raise pickle.loads((Path(folder) / "error").read_bytes()) from None
            raise
        finally:
            for process in processes.processes:
                if process.is_alive():
                    process.terminate()
        return pickle.loads((Path(folder) / "result").read_bytes())


def _process(
    rank: int, function: Callable[..., Any], options: dict[str, Any], size: int, threads: int, at: str
) -> None:
    os.environ |= {RANK: str(rank), SIZE: str(size), LOCAL: str(rank)}
    torch.set_num_threads(threads)
    device = options.get("device", "cpu")
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(_device(device))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, init_method=f"file://{at}/rendezvous", rank=rank, world_size=size)
    try:
        result = function(**options)
        if rank == 0:
            (Path(at) / "result").write_bytes(pickle.dumps(result))
    except Exception as error:
        _keep(error, Path(at) / "error")
        raise
    dist.destroy_process_group()


def _keep(error: Exception, path: Path) -> None:
    """Leave an error for the process that waits; the first one counts."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        data = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    with suppress(FileExistsError), path.open("xb") as file:
        file.write(data)


def _device(device: str) -> str:
    """Of this process: its own GPU for "cuda"."""
    return f"cuda:{os.environ.get(LOCAL, '0')}" if device == "cuda" and int(os.environ.get(SIZE, "1")) > 1 else device
