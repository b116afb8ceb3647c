"""What is exported: the items of a source, how they divide into parts, and what is known of each beside its signal."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from zoo.data.sources import IMAGES, SHAPES, SOUNDS, FolderSource, HubSource, Kind, ShardSource, Source, open_source
from zoo.export.format import Columns

__all__ = ["Facts", "Inputs", "Part", "open_inputs"]

LONG = 2**63  # what whole numbers of a column lie below
PROBED = 64  # items whose JSON says which columns there are
RESERVED = frozenset(
    {"id", "tokens", "length", "lengths", "slots", "scales", "size", "label", "caption", "extra", "facts"}
    | {"positions", "durations", "gains", "latents"}
)
CAPTIONS, LABELS = ("caption", "text"), ("label", "cls", "class")
HUB = "hf:"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a source knows of an item.

    Attributes:
        label: its class, by number or name.
        caption: its text; None where there is none.
        metadata: the rest, by column.
    """

    label: int | str | None = None
    caption: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """Items that become one shard.

    Attributes:
        name: a tar file's, or the numbers of the first and the last item.
        start, stop: the items, in the source's order.
    """

    name: str
    start: int
    stop: int


class Inputs(ABC):
    """A source that is cut into parts and knows more of its items than their bytes.

    Args:
        source: the items.
        shard_items: of a part, where the source has no shards of its own.

    Attributes:
        parts: in the source's order.
        columns: names and kinds of `label` (where there is one), `caption` and the metadata.
        labels: names of the classes that numbers stand for, where they are known beforehand.
    """

    columns: Columns
    labels: tuple[str, ...] = ()

    def __init__(self, source: Source, shard_items: int) -> None:
        self.source, count = source, len(source.names)
        starts = range(0, count, shard_items)
        ends = [min(start + shard_items, count) for start in starts]
        self.parts = [Part(f"{start}-{end - 1}", start, end) for start, end in zip(starts, ends, strict=True)]

    @abstractmethod
    def facts(self, index: int) -> Facts:
        """What is known of item `index`.

        Raises:
            ValueError: what stands beside it cannot be read.
        """

    @property
    def digest(self) -> str:
        """sha256 of the names of all items and of where parts begin."""
        lines = (f"{part.name} {part.start} {part.stop}" for part in self.parts)
        text = "\n".join([*self.source.names, "", *lines])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class FolderInputs(Inputs):
    """A folder: the class is the first folder of an item's path, the rest stands in `metadata.jsonl` of the root.

    A line of that file is an object with `file_name`, the path of an item, and any columns; `caption` or `text` and
    `label` mean what they say.
    """

    def __init__(self, source: FolderSource, shard_items: int) -> None:
        super().__init__(source, shard_items)
        self._lines = _metadata(source.root / "metadata.jsonl")
        folders = {PurePosixPath(name).parts[0] for name in source.names if "/" in name}
        self.labels = tuple(sorted(folders))
        self._numbers = {name: number for number, name in enumerate(self.labels)}
        kinds = _kinds(self._lines.values())
        self._own_label = None if folders else next((name for name in LABELS if name in kinds), None)
        self.columns = {}
        if folders or self._own_label is not None:
            self.columns["label"] = "int" if folders or kinds[str(self._own_label)] == "int" else "string"
        self._names = _columns(kinds, self._own_label)
        self.columns |= {"caption": "string"} | {column: kinds[name] for name, column in self._names.items()}

    def facts(self, index: int) -> Facts:
        """As `Inputs.facts`."""
        name = self.source.names[index]
        line = self._lines.get(name, {})
        label: int | str | None = self._numbers.get(PurePosixPath(name).parts[0])
        if self._own_label is not None and line.get(self._own_label) is not None:
            value = line[self._own_label]
            label = value if self.columns["label"] == "int" else str(value)
        caption = self.source.caption(index) or next((line[name] for name in CAPTIONS if line.get(name)), None)
        values = {column: line.get(name) for name, column in self._names.items()}
        return Facts(label, caption, {name: _cast(value, self.columns[name]) for name, value in values.items()})


class ShardInputs(Inputs):
    """WebDataset shards, each a part: `.cls` is the class, `.txt` the caption, `.json` the metadata.

    The first items say which columns there are; what others have beyond that goes into `extra`, as JSON.
    """

    def __init__(self, source: ShardSource, shard_items: int) -> None:
        super().__init__(source, shard_items)
        self.parts, start = [], 0
        for name, items in groupby(source.names, lambda item: item.split("/", 1)[0]):
            stop = start + sum(1 for _ in items)
            self.parts.append(Part(name, start, stop))
            start = stop
        first = range(min(PROBED, len(source.names)))
        lines = [line for index in first if (line := self._line(index, careful=False))]
        kinds = _kinds(lines)
        classes = [text for index in first if (text := source.beside(index, ".cls")) is not None]
        self._own_label = None if classes else next((name for name in LABELS if name in kinds), None)
        self.columns = {}
        if classes:
            self.columns["label"] = "int" if all(_is_number(text) for text in classes) else "string"
        elif self._own_label is not None:
            self.columns["label"] = "int" if kinds[self._own_label] == "int" else "string"
        self._names = _columns(kinds, self._own_label)
        self.columns |= {"caption": "string"} | {column: kinds[name] for name, column in self._names.items()}
        if lines:
            self.columns["extra"] = "json"

    def facts(self, index: int) -> Facts:
        """As `Inputs.facts`."""
        line = self._line(index)
        caption = self.source.caption(index) or next((line[name] for name in CAPTIONS if line.get(name)), None)
        values: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in line.items():
            if name in CAPTIONS or name == self._own_label:
                continue
            column = self._names.get(name)
            if column is None or not _fits(value, self.columns[column]):
                extra[name] = value
            else:
                values[column] = _cast(value, self.columns[column])
        if extra and "extra" in self.columns:
            values["extra"] = json.dumps(extra, ensure_ascii=False)
        return Facts(self._label(index, line), caption, values)

    def _label(self, index: int, line: Mapping[str, Any]) -> int | str | None:
        if "label" not in self.columns:
            return None
        text = self.source.beside(index, ".cls")
        value = line.get(self._own_label or "") if text is None else text.decode("utf-8", "replace").strip()
        if value is None:
            return None
        if self.columns["label"] == "string":
            return str(value)
        try:
            return int(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"its class is {value!r}, where the first items have numbers") from error

    def _line(self, index: int, *, careful: bool = True) -> dict[str, Any]:
        data = self.source.beside(index, ".json")
        if data is None:
            return {}
        try:
            line = json.loads(data)
        except ValueError as error:
            if careful:
                raise ValueError(f"its .json is damaged ({error})") from error
            return {}
        return line if isinstance(line, dict) else {"json": line}


class HubInputs(Inputs):
    """A data set of `datasets`: the class is its ClassLabel (or `label`) column, all other columns are metadata."""

    KINDS: ClassVar = {
        "int": "int",
        "uint64": "json",
        "uint": "int",
        "float": "float",
        "bool": "bool",
        "string": "string",
    }

    def __init__(self, source: HubSource, shard_items: int) -> None:
        import datasets

        super().__init__(source, shard_items)
        features = source.data.features
        media = (datasets.Image, datasets.Audio)
        classes = [name for name, column in features.items() if isinstance(column, datasets.ClassLabel)]
        numbers = [name for name in LABELS if str(getattr(features.get(name), "dtype", "")).startswith("int")]
        self._label = next(iter(classes + numbers), None)
        if classes:
            self.labels = tuple(features[classes[0]].names)
        known = (self._label, source.text)
        kept = [name for name, column in features.items() if not isinstance(column, media) and name not in known]
        kinds = {name: self._kind(getattr(features[name], "dtype", None)) for name in kept}
        self._names = _columns({name: kind for name, kind in kinds.items() if kind}, None, captions=())
        self.columns = {"label": "int"} if self._label is not None else {}
        self.columns |= {"caption": "string"} | {column: str(kinds[name]) for name, column in self._names.items()}
        columns = [*self._names, *([] if self._label is None else [self._label])]
        self._rows = source.data.select_columns(columns) if columns else None

    def facts(self, index: int) -> Facts:
        """As `Inputs.facts`."""
        row = {} if self._rows is None else self._rows[index]
        values = {column: _cast(row[name], self.columns[column]) for name, column in self._names.items()}
        label = None if self._label is None else row[self._label]
        return Facts(None if label == -1 else label, self.source.caption(index) or None, values)

    def _kind(self, dtype: Any) -> str | None:
        """Of a column; None for bytes, which have no place in a row of text and numbers."""
        text = str(dtype or "")
        if text.endswith("binary"):
            return None
        return next(
            (kind for start, kind in self.KINDS.items() if text.removeprefix("large_").startswith(start)), "json"
        )


def open_inputs(data: str, modality: str, split: str, shard_items: int) -> Inputs:
    """What `--data` names.

    Args:
        data: a folder, tar shards (a file, a folder, a quoted pattern), a folder of `datasets.save_to_disk`, or
            `hf:PATH`, such a folder or the id of a data set of the hub.
        modality: of the tokenizer.
        split: of a data set of several.
        shard_items: of a part, where the source has no shards of its own.

    Raises:
        ValueError: nothing readable is there.
    """
    kind = _kind(data, modality)
    source = _open_hub(data.removeprefix(HUB), split, kind) if data.startswith(HUB) else open_source(data, split, kind)
    if isinstance(source, HubSource):
        return HubInputs(source, shard_items)
    if isinstance(source, ShardSource):
        return ShardInputs(source, shard_items)
    if isinstance(source, FolderSource):
        return FolderInputs(source, shard_items)
    raise ValueError(f"{data} was read as {type(source).__name__}, which has no parts to export")


def _kind(data: str, modality: str) -> Kind:
    if modality == "audio":
        return SOUNDS
    if modality == "image":
        return IMAGES
    from zoo.shapes.meshes import CLOUD_SUFFIXES, MESH_SUFFIXES

    root = Path(data).expanduser()
    if root.is_dir() and next(root.rglob(f"*{SHAPES.suffixes[0]}"), None) is not None:
        return SHAPES
    return Kind("shapes", tuple(dict.fromkeys((*MESH_SUFFIXES, *CLOUD_SUFFIXES, *SHAPES.suffixes))), "")


def _open_hub(path: str, split: str, kind: Kind) -> Source:
    folder = Path(path).expanduser()
    if not kind.feature:
        raise ValueError(f"hf:{path}: data sets of `datasets` have columns of pictures or sounds, not of {kind.name}")
    if folder.is_dir() and any((folder / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return HubSource(folder, split, kind)
    try:
        import datasets
    except ImportError as error:
        raise ValueError("reading a Hugging Face data set needs `pip install tokenizer-zoo[export]`") from error
    try:
        return HubSource.of(datasets.load_dataset(path, split=split), f"{path}/{split}", kind)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"hf:{path}: neither a folder of save_to_disk nor a data set of the hub ({error})") from error


def _metadata(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a `metadata.jsonl` by item; {} where there is no such file."""
    lines: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return lines
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            lines[str(line.pop("file_name"))] = line
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f'{path}, line {number}: expected an object with "file_name" ({error})') from error
    return lines


def _kinds(lines: Iterable[Mapping[str, Any]]) -> Columns:
    """Names in the order they come, with the kind that holds all their values."""
    found: dict[str, set[str]] = {}
    for line in lines:
        for name, value in line.items():
            kinds = found.setdefault(name, set())
            if value is not None:
                kind = {bool: "bool", int: "int", float: "float", str: "string"}.get(type(value), "json")
                kinds.add(kind if kind != "int" or _fits(value, "int") else "json")
    joined = {frozenset({"int", "float"}): "float"}
    return {
        name: next(iter(kinds)) if len(kinds) == 1 else joined.get(frozenset(kinds), "json")
        for name, kinds in found.items()
    }


def _columns(kinds: Columns, label: str | None, captions: Sequence[str] = CAPTIONS) -> dict[str, str]:
    """Names of metadata with the columns they get: their own, unless it has another meaning here."""
    kept = [name for name in kinds if name != label and name not in captions]
    return {name: f"source_{name}" if name in RESERVED else name for name in kept}


def _fits(value: Any, kind: str) -> bool:
    wanted: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float), "string": (str,)}
    if value is None or kind == "json":
        return True
    if kind == "int" and isinstance(value, int) and not -LONG <= value < LONG:
        return False
    return isinstance(value, wanted[kind]) and (kind == "bool") == isinstance(value, bool)


def _cast(value: Any, kind: str) -> Any:
    """A value as its column has it."""
    if value is None:
        return None
    if kind == "json":
        return json.dumps(value, ensure_ascii=False, default=str)
    return float(value) if kind == "float" else value


def _is_number(text: bytes) -> bool:
    return text.strip().lstrip(b"-").isdigit()
