"""Protocols: how numbers are measured, as YAML files beside this one or of your own; read without importing torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

__all__ = ["DEFAULTS", "Options", "Protocol", "Reference", "default_protocol", "list_protocols", "protocol"]

Reference = Literal["paired", "statistics", "either"]
Options = dict[str, Any]

FOLDER = Path(__file__).parent
DEFAULTS = {"image": "plain", "audio": "plain_audio", "shape": "plain_shape"}
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Protocol:
    """How items are prepared and what is measured on them.

    Attributes:
        name: the file's stem, and `NAME@SIZE` with another size; a part of every number's key.
        title: one line.
        modality: "image", "audio" or "shape".
        source: where it is stated: repository and commit, file or paper.
        published: what the published numbers are measured on.
        samples: N of the published numbers; None where they differ.
        view: how items are prepared; which keys there are is up to the modality's view.
        reference: of measures that compare sets: "paired" for the originals as they were prepared, "statistics" for a
            file of `--reference`, "either" for the originals unless there is a file.
        metrics: options of each measure, by its name; several sets of options where it is asked for several numbers,
            such as LPIPS of two networks.
        notes: traps.
    """

    name: str
    title: str
    modality: str
    source: str
    view: dict[str, Any]
    metrics: dict[str, list[Options]]
    published: str = ""
    samples: int | None = None
    reference: Reference = "either"
    notes: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        """sha256 of all that changes numbers: view, reference and metrics, but neither names nor notes."""
        facts = {name: getattr(self, name) for name in ("modality", "view", "reference", "metrics")}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def size(self) -> int | Literal["tokenizer"] | None:
        """Side of the pictures; "tokenizer" for that of the tokenizer, None for pictures as they are."""
        return self.view.get("size")

    def at(self, size: int) -> Protocol:
        """The same with pictures of another size, which is another protocol for every comparison.

        Raises:
            ValueError: its items have no size.
        """
        if "size" not in self.view:
            raise ValueError(f"the protocol {self.name} has no size to change; sizes are of pictures")
        if size < 1:
            raise ValueError(f"a size is at least 1, got {size}")
        if size == self.size:
            return self
        return replace(self, name=f"{self.name.partition('@')[0]}@{size}", view={**self.view, "size": size})


def list_protocols(modality: str | None = None) -> list[str]:
    """Names of the protocols of the package.

    Args:
        modality: "image", "audio" or "shape"; None for all.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return [name for name in names if modality in (None, protocol(name).modality)]


def default_protocol(modality: str) -> Protocol:
    """What is measured where no protocol is named."""
    return protocol(DEFAULTS[modality])


def protocol(name: str | Path) -> Protocol:
    """The protocol of a name, of a name with a size (`titok@128`), or of a file.

    Raises:
        KeyError: there is none of this name, or its file asks for a measure that there is not; the closest names are
            suggested.
        FileNotFoundError: no such file.
        ValueError: the file is no protocol.
    """
    text, _, size = str(name).partition("@")
    if size and not size.isdigit():
        raise ValueError(f"a size after @ is a number of pixels, such as {text}@128, got {str(name)!r}")
    if text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no protocol file {path}")
    else:
        path = FOLDER / f"{text}.yaml"
        if not path.is_file():
            names = sorted(item.stem for item in FOLDER.glob("*.yaml"))
            raise _unknown("protocol", text, names)
    found = _read(path)
    return found.at(int(size)) if size else found


def _read(path: Path) -> Protocol:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a plain YAML file: {error}") from error
    try:
        return _parse(path.stem, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except KeyError as error:
        raise KeyError(f"{path}: {error.args[0]}") from error


def _parse(name: str, data: object) -> Protocol:
    if not isinstance(data, Mapping):
        raise ValueError(f"a protocol is a mapping, got {type(data).__name__}")
    known = [item.name for item in fields(Protocol) if item.name != "name"]
    for key in data:
        if key not in known:
            raise ValueError(str(_unknown("key", str(key), known).args[0]))
    for key in ("title", "modality", "source", "view", "metrics"):
        if not data.get(key):
            why = "; say where it is stated (repository and commit, file, or paper)" if key == "source" else ""
            raise ValueError(f"a protocol needs {key!r}{why}")
    if not NAME.fullmatch(name):
        raise ValueError(f"its name is the file's, of lower case letters, digits, '_', '.' and '-', got {name!r}")
    values: dict[str, Any] = {"reference": "either"}
    values |= {str(key): value for key, value in data.items() if value is not None}
    _check(values)
    metrics = {
        measure: [dict(item) for item in options] if isinstance(options, list) else [dict(options or {})]
        for measure, options in values["metrics"].items()
    }
    notes = values.pop("notes", ())
    texts: dict[str, Any] = {
        key: " ".join(values[key].split()) for key in ("title", "source", "published") if key in values
    }
    parts: dict[str, Any] = {"metrics": metrics, "view": dict(values["view"]), "notes": _lines(notes), **texts}
    return Protocol(name=name, **{**values, **parts})


def _check(values: Mapping[str, Any]) -> None:
    from zoo.evaluation.measures import measure

    for key in ("title", "source", "published"):
        if not isinstance(values.get(key, ""), str):
            raise ValueError(f"{key} is a text, got {values[key]!r}")
    for key in ("view", "metrics"):
        if not isinstance(values[key], Mapping):
            raise ValueError(f"{key} is a mapping, got {values[key]!r}")
    if values["modality"] not in DEFAULTS:
        raise ValueError(f"modality is one of {', '.join(DEFAULTS)}, got {values['modality']!r}")
    if values["reference"] not in get_args(Reference):
        raise ValueError(f"reference is one of {', '.join(get_args(Reference))}, got {values['reference']!r}")
    if type(values.get("samples", 1)) is not int:
        raise ValueError(f"samples is a whole number, got {values['samples']!r}")
    size = values["view"].get("size")
    if "size" in values["view"] and size not in (None, "tokenizer") and (type(size) is not int or size < 1):
        raise ValueError(f"view.size is a number of pixels, tokenizer, or null for pictures as they are, got {size!r}")
    for name, options in values["metrics"].items():
        found = measure(str(name))
        if values["modality"] not in found.modalities:
            raise ValueError(
                f"{name} is for {', '.join(found.modalities)}, this is a protocol for {values['modality']}"
            )
        for item in options if isinstance(options, list) else [options]:
            if item is not None and not isinstance(item, Mapping):
                raise ValueError(f"the options of {name} are a mapping, got {item!r}")
        if isinstance(options, list) and "" in found.numbers and len(options) > 1:
            raise ValueError(f"{name} has one number and takes one set of options, got {len(options)}")


def _lines(notes: object) -> tuple[str, ...]:
    items: Sequence[Any] = notes if isinstance(notes, (list, tuple)) else [notes]
    if not all(isinstance(item, str) for item in items):
        raise ValueError(f"notes are texts, got {notes!r}")
    return tuple(" ".join(item.split()) for item in items)


def _unknown(kind: str, name: str, names: Iterable[str]) -> KeyError:
    found = sorted(names)
    closest = get_close_matches(name, found, n=3, cutoff=0.5)
    hint = f"closest: {', '.join(closest)}" if closest else f"there are {', '.join(found)}"
    return KeyError(f"no {kind} {name!r}; {hint}")
