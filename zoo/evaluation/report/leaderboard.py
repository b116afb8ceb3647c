"""Many results as one page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from zoo.evaluation.report.pages import Unread, page_of, render
from zoo.evaluation.results import RESULTS, Run, read_results
from zoo.store.files import replacing

__all__ = ["collect", "find_results", "write_leaderboard"]


def find_results(places: Iterable[str | Path]) -> list[Path]:
    """Every `results.json` at or below some places, in order, each once; a file is taken whatever it is called.

    Raises:
        FileNotFoundError: a place is absent, or a folder holds none.
    """
    found: dict[Path, Path] = {}
    for place in map(Path, places):
        files = sorted(place.rglob(RESULTS)) if place.is_dir() else [place]
        if not files or not files[0].exists():
            what = f"no {RESULTS} below {place}" if place.is_dir() else f"no results at {place}"
            raise FileNotFoundError(f"{what}; `zoo evaluate ... -o {place}` makes them")
        found |= {file.resolve(): file for file in files}
    return list(found.values())


def collect(files: Sequence[Path]) -> tuple[list[Run], list[Unread]]:
    """The runs of all files that are results, and what is wrong with the others."""
    runs: list[Run] = []
    unread = []
    for file in files:
        try:
            found = read_results(file).runs
        except (ValueError, OSError) as error:
            unread.append(Unread(str(file), str(error).removeprefix(f"{file}: ")))
            continue
        if wrong := next((name for run in found if (name := _misfit(run, Run))), None):
            unread.append(Unread(str(file), f"not as `zoo evaluate` writes it: {wrong} holds something else"))
        else:
            runs += found
    return runs, unread


def write_leaderboard(places: Iterable[str | Path], output: str | Path, *, sort: str | None = None) -> list[Unread]:
    """Write the page of all results at or below some places.

    Args:
        output: an .html or .md file.
        sort: number that models are ranked by, such as "rfid"; None for the first of each table.

    Returns:
        Files that are no results; the page names them too.

    Raises:
        FileNotFoundError: a place is absent, or holds no results.
        ValueError: another suffix, nothing readable, or no result has the number to sort by.
    """
    output = Path(output)
    if output.suffix not in (".html", ".md"):
        raise ValueError(f"-o names an .html or .md file, got {output}")
    runs, unread = collect(find_results(places))
    if not runs and unread:
        raise ValueError(f"none of {len(unread)} files is readable; {unread[0].path}: {unread[0].why}")
    page = page_of(runs, "Leaderboard", leaderboard=True, sort=sort, unread=unread)
    with replacing(output) as draft:
        draft.write_text(render(page, output.suffix), encoding="utf-8")
    return unread


def _misfit(value: Any, hint: Any, name: str = "run") -> str:
    """Where a value is not of a type, as a path of names; "" where all of it is. Numbers must be finite."""
    kind, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        parts = [(getattr(value, key), part, f"{name}.{key}") for key, part in get_type_hints(hint).items()]
    elif kind is list and isinstance(value, list):
        parts = [(item, inner[0], name) for item in value]
    elif kind is dict and isinstance(value, dict):
        parts = [(item, inner[1], f"{name}.{key}") for key, item in value.items()]
    elif kind is UnionType:
        return min((_misfit(value, part, name) for part in inner), key=len)
    elif hint is float:
        return "" if type(value) in (int, float) and math.isfinite(value) else name
    else:
        return "" if hint is Any or type(value) is hint else name
    return next(filter(None, (_misfit(*part) for part in parts)), "")
