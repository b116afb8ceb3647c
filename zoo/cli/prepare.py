"""`zoo prepare-meshes`."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from zoo.cli.inputs import Item, find_items, output_paths
from zoo.cli.jobs import Job
from zoo.cli.options import Overwrite, complain

if TYPE_CHECKING:
    from zoo.shapes.prepared import Preparation

__all__ = ["prepare_meshes"]

RECORD = "preparation.json"

Task = TypeVar("Task")
Result = TypeVar("Result")


class PlacementName(StrEnum):
    """How shapes fill the frame."""

    box = "box"
    sphere = "sphere"
    none = "none"


@dataclass(frozen=True, slots=True)
class Order:
    """One mesh to prepare.

    Attributes:
        target: where the result goes.
        name: of the shape, from which its random draws come.
        how: the options.
        most_faces: largest mesh that is taken.
    """

    item: Item
    target: Path
    name: str
    how: Preparation
    most_faces: int


def prepare_meshes(
    inputs: Annotated[list[str], typer.Argument(help="Mesh files, folders (searched recursively) or quoted globs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; results keep the places of their meshes.")],
    points: Annotated[int, typer.Option(min=1, help="Points of each surface, with normals.")] = 16384,
    sharp: Annotated[int, typer.Option(min=0, help="Points along sharp edges.")] = 4096,
    queries: Annotated[
        int, typer.Option(min=8, help="In the volume, and as many near the surface; a multiple of 8.")
    ] = 16384,
    spread: Annotated[
        str, typer.Option(help="Standard deviations of near queries from the surface, in the frame; equal shares.")
    ] = "0.01,0.05",
    placement: Annotated[
        PlacementName,
        typer.Option(help="Centre by the bounding box, and fit the longest side (box) or farthest point (sphere)."),
    ] = PlacementName.box,
    extent: Annotated[float, typer.Option(help="Half length of the longest side, or radius, in [-1, 1]^3.")] = 0.95,
    max_ambiguous: Annotated[
        float,
        typer.Option(min=0, max=100, help="Percent of queries that may be neither inside nor outside: open surfaces."),
    ] = 5.0,
    max_faces: Annotated[int, typer.Option(min=1, help="Larger meshes are refused.")] = 5_000_000,
    seed: Annotated[int, typer.Option(help="Of the points and queries.")] = 0,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Processes.")] = os.cpu_count() or 1,
    overwrite: Overwrite = False,
) -> None:
    """Make training data of meshes: points of their surfaces, and queries that are inside or outside.

    OBJ, GLB, GLTF, PLY, STL and OFF. Meshes need not be closed: a point is inside where the winding number is above
    1/2. One file is written for each mesh, so an interrupted run goes on where it stopped. Meshes that cannot be used
    are listed in errors.jsonl.

    \b
    Examples:
      zoo prepare-meshes meshes -o shapes
      zoo prepare-meshes 'cars/**/*.glb' -o shapes --workers 8 --max-ambiguous 2
    """
    with complain():
        from zoo.shapes.meshes import MESH_SUFFIXES
        from zoo.shapes.prepared import Preparation

        how = Preparation(points, sharp, queries, numbers(spread), placement.value, extent, max_ambiguous / 100, seed)
        items = find_items(inputs, MESH_SUFFIXES)
        targets = output_paths(items, output, ".safetensors", single=())
        keep_options(output, how, overwrite)
    shares: list[tuple[float, Path]] = []
    with Job("preparing", len(items), output / "errors.jsonl") as job:
        orders = []
        for item, target in zip(items, targets, strict=True):
            if target.exists() and not overwrite:
                job.skip()
            else:
                name = target.relative_to(output).with_suffix("").as_posix()
                orders.append(Order(item, target, name, how, max_faces))
        for order, share in in_processes(work, orders, workers):
            if isinstance(share, Exception):
                job.fail(order.item, share)
            else:
                job.finish()
                shares.append((share, order.item.place))
        if shares:
            mean, (most, place) = sum(share for share, _ in shares) / len(shares), max(shares)
            job.notes.append(f"ambiguous queries: {mean:.2%} on average, at most {most:.2%} ({place})")


def work(order: Order) -> float:
    """Prepare one mesh; the share of its queries that are ambiguous."""
    from zoo.shapes.meshes import read_mesh
    from zoo.shapes.prepared import prepare

    mesh = read_mesh(order.item.path, order.most_faces)
    prepared = prepare(mesh, order.how, order.name)
    facts = {"source": order.item.place.as_posix(), "vertices": len(mesh.vertices), "faces": len(mesh.faces)}
    prepared.save(order.target, order.how, facts)
    return prepared.ambiguous


def keep_options(folder: Path, how: Preparation, overwrite: bool) -> None:
    """Note the options in the output folder.

    Raises:
        ValueError: results of other options are there, and are not to be overwritten.
    """
    path, wanted = folder / RECORD, json.loads(json.dumps(asdict(how)))
    if path.exists() and not overwrite:
        found = json.loads(path.read_text())
        if other := [
            f"{name} {found.get(name)}, not {value}" for name, value in wanted.items() if found.get(name) != value
        ]:
            raise ValueError(f"{folder} was prepared with {', '.join(other)}; use another folder, or --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=1) + "\n")


def numbers(text: str) -> tuple[float, ...]:
    """What `--spread 0.01,0.05` means.

    Raises:
        ValueError: something else than numbers.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--spread expects numbers such as 0.01,0.05, got {text!r}") from error


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Result | Exception]]:
    """Each task with what the function returns or raises, in the order in which they end.

    A process that dies, of a mesh too large for the memory, say, takes the others' work with it. What was running then
    is tried again one by one; a task whose process dies again has failed.
    """
    waiting, suspects = deque(tasks), deque[Task]()
    while waiting or suspects:
        alone = bool(suspects)
        queue, count = (suspects, 1) if alone else (waiting, min(workers, len(waiting)))
        running: dict[Future[Result], Task] = {}
        died = False
        with ProcessPoolExecutor(count, get_context("spawn"), _single_thread) as pool:
            while not died and (queue or running):
                while queue and len(running) < (1 if alone else 2 * count):
                    task = queue.popleft()
                    running[pool.submit(function, task)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, error = running.pop(future), future.exception()
                    if error is None:
                        yield task, future.result()
                    elif not isinstance(error, BrokenProcessPool):
                        yield task, error if isinstance(error, Exception) else RuntimeError(repr(error))
                    elif alone:
                        died = True
                        yield task, RuntimeError("its process died: too large for the memory, or a fault of a library")
                    else:
                        died = True
                        suspects.append(task)
        suspects.extend(running.values())


def _single_thread() -> None:
    """Processes share the cores; the libraries' threads in each would fight for them."""
    os.environ |= {"IGL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
