"""The first few reconstructions and their originals as files, for people to look at or listen to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from zoo.evaluation.outcome import Outcome, Setting
from zoo.evaluation.ranks import World
from zoo.evaluation.views.base import View

__all__ = ["Samples"]


class Samples:
    """Files of one run, in `samples/MODEL/PROTOCOL/` of the results' folder: `original/` and a folder for each setting.

    Args:
        root: the results' folder; None for no files.
        count: items, the first of the data.
    """

    def __init__(self, root: Path | None, model: str, protocol: str, count: int, world: World) -> None:
        self.root, self.world = root, world
        self.count = 0 if root is None else count
        self.folder = Path("samples") / _safe(model) / _safe(protocol)
        self.files: dict[Setting | None, dict[int, str]] = {}
        if root is not None and world.first:
            shutil.rmtree(root / self.folder, ignore_errors=True)
        world.gather(None)

    def keep(self, view: View, setting: Setting, outcome: Outcome, places: dict[str, int]) -> None:
        """Write those items of a batch that are among the first.

        Args:
            places: of the batch's items in the data, by their names.
        """
        if self.root is None:
            return
        for row, name in enumerate(outcome.names):
            if (place := places[name]) < self.count:
                stem = f"{place:04d}_{_safe(Path(name).stem)}"
                for kind in (None, setting):
                    files = self.files.setdefault(kind, {})
                    if place not in files:
                        path = self.root / self.folder / _title(kind) / stem
                        path.parent.mkdir(parents=True, exist_ok=True)
                        made = view.sample(outcome, row, path, original=kind is None)
                        files[place] = made.relative_to(self.root).as_posix()

    def listed(self, settings: list[Setting]) -> tuple[list[str], dict[Setting, list[str]]]:
        """Originals, and reconstructions by setting, of those items that all settings have; all processes call it."""
        files: dict[Setting | None, dict[int, str]] = {kind: {} for kind in (None, *settings)}
        for found in self.world.gather(self.files):
            for kind, named in found.items():
                files[kind] |= named
        complete = sorted(set.intersection(*(set(named) for named in files.values())))
        lists = {kind: [named[place] for place in complete] for kind, named in files.items()}
        return lists[None], {setting: lists[setting] for setting in settings}


def _title(setting: Setting | None) -> str:
    if setting is None:
        return "original"
    parts = [f"{name}_{count}" for name in ("tokens", "codebooks") if (count := getattr(setting, name)) is not None]
    return "_".join(parts) or "whole"


def _safe(name: str) -> str:
    return re.sub(r"[^\w.@-]+", "_", name).strip("._") or "unnamed"
