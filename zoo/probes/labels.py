"""Labelled data: a folder for each class, WebDataset shards with `.cls` members, Hugging Face data sets."""

from __future__ import annotations

import hashlib
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.sources import IMAGES, SOUNDS, FolderSource, HubSource, Kind, ShardSource, Source, open_source, stem
from zoo.shapes.meshes import CLOUD_SUFFIXES, MESH_SUFFIXES

__all__ = ["Labelled", "Split", "divide", "kind_of", "open_labelled"]

_SHAPES = Kind("shapes", tuple(dict.fromkeys((*MESH_SUFFIXES, *CLOUD_SUFFIXES))), "")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Files and what each of them shows.

    Attributes:
        source: the files.
        labels: the class of each.
    """

    source: Source
    labels: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, in alphabetical order."""
        return tuple(sorted(set(self.labels)))


def kind_of(modality: str) -> Kind:
    """The files that a modality's items are in."""
    return {"image": IMAGES, "audio": SOUNDS, "shape": _SHAPES}[modality]


def open_labelled(root: str | Path, kind: Kind, split: str = "train") -> Labelled:
    """Open labelled data.

    Args:
        root: a folder with one folder for each class, at any depth below (torchvision's ImageFolder layout); tar shards
            in which `KEY.cls` holds the class of `KEY.png`; or a data set saved by `datasets.save_to_disk` with a
            column `label`.
        kind: which files are items.
        split: which part of a Hugging Face `DatasetDict`.

    Raises:
        ValueError: no such files, or one without a class.
    """
    source = open_source(root, split, kind)
    if isinstance(source, FolderSource):
        loose = [name for name in source.names if "/" not in name]
        if loose:
            raise ValueError(
                f"{root}: {loose[0]} lies in no class folder; expected a folder for each class, such as cat/{loose[0]}"
            )
        return Labelled(source, tuple(name.split("/")[0] for name in source.names))
    if isinstance(source, ShardSource):
        return Labelled(source, _of_shards(source, Path(root)))
    return Labelled(source, _of_table(source, Path(root).expanduser(), split))


def _of_shards(source: ShardSource, root: Path) -> tuple[str, ...]:
    path = root.expanduser()
    folder = path if path.is_dir() else path.parent
    classes: dict[str, str] = {}
    for shard in sorted({name.split("/")[0] for name in source.names}):
        with tarfile.open(folder / shard, "r:") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".cls") and (file := archive.extractfile(member)):
                    classes[stem(f"{shard}/{member.name}")] = file.read().decode("utf-8", "replace").strip()
    missing = [name for name in source.names if stem(name) not in classes]
    if missing:
        raise ValueError(f"{missing[0]} has no member {stem(missing[0])}.cls with its class")
    return tuple(classes[stem(name)] for name in source.names)


def _of_table(source: Source, root: Path, split: str) -> tuple[str, ...]:
    import datasets

    data = datasets.load_from_disk(str(root))
    data = data[split] if isinstance(data, datasets.DatasetDict) else data
    if not isinstance(source, HubSource) or "label" not in data.features:
        raise ValueError(f"{root} has no column `label`, only {sorted(data.features)}; rename the one with the classes")
    feature, values = data.features["label"], data["label"]
    named = isinstance(feature, datasets.ClassLabel)
    return tuple(feature.int2str(value) if named else str(value) for value in values)


@dataclass(frozen=True, slots=True)
class Split:
    """Which items are learned from, which choose the settings, and which are judged.

    Attributes:
        train, validation, test: positions, rising; of the test data where that was given apart.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def divide(names: Sequence[str], labels: Sequence[str], fraction: float, *, apart: bool = False) -> Split:
    """Take a share of each class for the test and for validation, by digests of the names: the same on every machine.

    Args:
        names, labels: of the items.
        fraction: of each class for the test, and of the rest for validation; at least one item for the test, and one
            for validation of classes with two left.
        apart: the test data are others; nothing is taken for it.

    Raises:
        ValueError: one class only, or a class with too few items.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place in sorted(range(len(names)), key=lambda place: hashlib.sha256(names[place].encode()).digest()):
        groups[labels[place]].append(place)
    if len(groups) < 2:
        found = ", ".join(groups) or "none"
        raise ValueError(f"a probe tells classes apart and needs two or more, got {found}; give one folder for each")
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label, places in sorted(groups.items()):
        needed = 1 if apart else 2
        if len(places) < needed:
            raise ValueError(
                f"class {label!r} has {len(places)} readable item{'s' if len(places) != 1 else ''}, a probe needs "
                f"{needed} or more of each class; add some, remove the class, or give --test"
            )
        tested = 0 if apart else min(max(1, round(fraction * len(places))), len(places) - 1)
        rest = places[tested:]
        chosen = max(1, round(fraction * len(rest))) if len(rest) > 1 else 0
        parts[2].extend(places[:tested])
        parts[1].extend(rest[:chosen])
        parts[0].extend(rest[chosen:])
    train, validation, test = (tuple(sorted(part)) for part in parts)
    return Split(train, validation, test)
