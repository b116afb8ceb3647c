"""Model cards and recipe names, read from YAML files without importing torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

import yaml

__all__ = [
    "Card",
    "KnownAnswer",
    "Metric",
    "Part",
    "Weights",
    "card",
    "cards",
    "check_trains",
    "list_models",
    "list_recipes",
    "safe_name",
    "unknown",
]

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "checkpoints"
RECIPES = ROOT / "recipes"

Layout = Literal["reference", "zoo"]
Kind = Literal["tokenizer", "generator"]
INPUTS = {
    "sine": ("frequency", "amplitude", "seconds"),
    "ellipsoid": ("radii",),
    "sample": ("file",),
    "file": ("file", "of"),
}
MODALITIES = ("image", "audio", "shape")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
OPEN_LICENSES = frozenset(
    {
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0",
        "cc-by-sa-3.0", "cc-by-sa-4.0", "isc", "unlicense",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One file of several that make a model.

    Attributes:
        file: its name inside the hub repository.
        sha256: its digest, where known.
    """

    file: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """Where a model's weights are and how they are laid out.

    Attributes:
        license: SPDX identifier or the publisher's own name for it.
        layout: "reference" for the publisher's keys and config, "zoo" for ours.
        hub: Hugging Face hub id `org/name`, None for weights that are on no hub.
        file: file name inside the hub repository, or as the publisher names it.
        revision: hub commit, tag or branch; None for the newest.
        sha256: digest of the file, where known.
        parts: where the model is kept in several files in place of one: each by the prefix that its keys get.
        embedded: the file is in the package, `checkpoints/weights/NAME.safetensors`.
        source: where else the publisher keeps the file, for people to fetch by hand; None where a hub has it.
    """

    license: str
    layout: Layout
    hub: str | None = None
    file: str = "model.safetensors"
    revision: str | None = None
    sha256: str | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    embedded: bool = False
    source: str | None = None

    @property
    def place(self) -> str:
        """ "package", "hub", or "by hand" for a file that `zoo.load` cannot fetch."""
        return "package" if self.embedded else "hub" if self.hub else "by hand"

    @property
    def research_only(self) -> bool:
        """Whether the licence is not one of the well-known open ones."""
        return self.license.lower() not in OPEN_LICENSES


@dataclass(frozen=True, slots=True)
class Metric:
    """One number with the protocol that produced it.

    Attributes:
        data: what it was measured on.
        origin: "reported: " and who says so, or "measured: " and the command or file of this project that shows it.
        crop: how the data were prepared.
    """

    name: str
    value: float
    data: str
    origin: str
    crop: str | None = None

    @property
    def measured(self) -> bool:
        """Whether this project measured it, instead of quoting somebody."""
        return self.origin.startswith("measured: ")

    @property
    def source(self) -> str:
        """What the origin says without its first word."""
        return self.origin.partition(": ")[2]


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """What a model's encoder makes of one input; `zoo verify` compares.

    Attributes:
        input: what goes in: `{kind: sine, frequency: Hz, amplitude, seconds}` at the model's sample rate,
            `{kind: ellipsoid, radii: [x, y, z]}` in the model's frame, `{kind: sample, file: a file of
            checkpoints/samples}`, or `{kind: file, file: name, of: where it is published}` for a file that the user
            fetches; of pictures what they are fitted to, `size: [h, w]`.
        tokens: the first codes, position by position and codebook by codebook within a position.
        source: who states them.
        count: positions of the whole code; None when only the first codes are known.
        tolerance: codes among `tokens` that may differ, for ties that other machines break otherwise.
    """

    input: dict[str, Any]
    tokens: tuple[int, ...]
    source: str
    count: int | None = None
    tolerance: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about one published set of weights.

    Attributes:
        name: the file's stem, which `zoo.load` takes.
        family: a class of `zoo.families`.
        config: the reference's own configuration, for the layout "reference".
        recipe: recipe whose tokenizer node rebuilds the model, for the layout "zoo".
        params: number of parameters.
        training: free-form record of how an embedded model was trained (data, command, seed, hardware, time).
        known_answers: inputs and their codes, for `zoo verify`.
        kind: "tokenizer", or "generator" for what `zoo.generators.pipeline.load` opens; then `family` is a class of
            `zoo.generators`, `config` names the `tokenizer` whose codes it speaks, and for the layout "zoo" it holds
            the `generator` node and the `labels` of classes.
    """

    name: str
    family: str
    title: str
    modality: str
    weights: Weights
    paper: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    params: int | None = None
    metrics: tuple[Metric, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    known_answers: tuple[KnownAnswer, ...] = ()
    notes: str = ""
    kind: Kind = "tokenizer"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `zoo list --json` and `zoo info --json`."""
        return asdict(self)

    @property
    def weights_path(self) -> Path:
        """Where the file of an embedded model is."""
        return CARDS / "weights" / f"{self.name}.safetensors"


def unknown(kind: str, name: str, names: Iterable[str]) -> KeyError:
    """The error for a name that is not there, with the closest ones."""
    closest = get_close_matches(name, dict.fromkeys(names), n=3, cutoff=0.5)
    option = {"recipe": " --recipes", "generator": " --generators"}.get(kind, "")
    hint = f"closest: {', '.join(closest)}" if closest else f"see `zoo list{option}`"
    return KeyError(f"no {kind} {name!r}; {hint}")


def card(name: str, folder: Path | None = None) -> Card:
    """The card of a model.

    Args:
        folder: where the cards are; None for those of the package.

    Raises:
        KeyError: no such card; the closest names are suggested.
        ValueError: the file is not a valid card.
    """
    names = _stems(folder or CARDS)
    if name in names:
        return _read((folder or CARDS) / f"{name}.yaml")
    if folder is None and name in _stems(RECIPES):
        raise KeyError(
            f"no model {name!r}: it is a recipe without published weights; "
            f"train it with `zoo train {name}`, or use zoo.build({name!r}) for random weights"
        )
    raise unknown("model", name, names)


def cards(folder: Path | None = None, *, kind: Kind | None = "tokenizer") -> list[Card]:
    """All cards of a kind (None for all) in a folder (None for those of the package), sorted by name."""
    found = [card(name, folder) for name in _stems(folder or CARDS)]
    return [item for item in found if kind in (None, item.kind)]


def list_models(
    pattern: str = "*",
    *,
    modality: str | None = None,
    embedded: bool | None = None,
    kind: Kind | None = "tokenizer",
) -> list[str]:
    """Names that `zoo.load` takes; of another kind, names that `zoo.generators.pipeline.load` takes.

    Args:
        pattern: shell pattern, for example `titok_*`.
        modality: "image", "audio" or "shape"; None for all.
        embedded: True for models whose weights come with the package, False for the others, None for all.
        kind: "tokenizer" or "generator"; None for both.
    """
    if modality is not None and modality not in MODALITIES:
        raise ValueError(f"modality is one of {', '.join(MODALITIES)}, got {modality!r}")
    return [
        item.name
        for item in cards(kind=kind)
        if fnmatchcase(item.name, pattern)
        and modality in (None, item.modality)
        and embedded in (None, item.weights.embedded)
    ]


def list_recipes(pattern: str = "*", *, trains: bool | None = None, kind: Kind | None = "tokenizer") -> list[str]:
    """Names that `zoo.build` takes, and but for those of models that only encode, `zoo train`.

    Args:
        pattern: shell pattern, for example `titok_*`.
        trains: True for recipes of a training, False for those of a model alone, None for all.
        kind: of what is trained, "tokenizer" or "generator"; None for both.
    """
    found = [name for name in _stems(RECIPES) if fnmatchcase(name, pattern)]
    found = [name for name in found if kind in (None, _recipe_kind(RECIPES / f"{name}.yaml"))]
    return found if trains is None else [name for name in found if _trains(RECIPES / f"{name}.yaml") == trains]


def check_trains(recipe: str) -> None:
    """Raise KeyError unless there is a recipe of this name, ValueError if it describes a model without a training."""
    if recipe not in list_recipes(kind=None):
        raise unknown("recipe", recipe, list_recipes(kind=None))
    if not _trains(RECIPES / f"{recipe}.yaml"):
        raise ValueError(
            f"recipe {recipe!r} describes a model and no training, for the model only encodes; "
            f"build it with zoo.build({recipe!r}), or load weights into it by a card's name"
        )


def safe_name(name: object, what: str = "file name") -> str:
    """A relative path that stays inside its folder.

    Raises:
        ValueError: absolute, with a drive, a backslash, a `..` part or nothing in it.
    """
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        raise ValueError(f"{what} {name!r} is refused: expected a relative path such as 'model.safetensors'")
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or not path.parts:
        raise ValueError(f"{what} {name!r} is refused: it must stay inside its folder, without '..' or a root")
    return name


def _stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


@lru_cache(maxsize=512)
def _trains(path: Path) -> bool:
    """Whether a recipe stands on others, in the end on base/train."""
    return re.search(r"^defaults:", path.read_text("utf-8"), re.MULTILINE) is not None


@lru_cache(maxsize=512)
def _recipe_kind(path: Path) -> Kind:
    """What a recipe trains: a generator has a node of its own."""
    return "generator" if re.search(r"^generator:", path.read_text("utf-8"), re.MULTILINE) else "tokenizer"


@lru_cache(maxsize=512)
def _read(path: Path) -> Card:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(path.read_text("utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: not a plain YAML card: {error}") from error
    try:
        return _card(path.stem, data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _card(name: str, data: object) -> Card:
    values = _fields(data, Card, "a card", derived={"name"})
    given = _fields(values.pop("weights"), Weights, "weights")
    files = (given.pop("parts", None) or {}).items()
    weights = Weights(**given, parts={str(key): Part(**_fields(part, Part, "a part")) for key, part in files})
    metrics = tuple(Metric(**_fields(item, Metric, "a metric")) for item in values.pop("metrics", None) or ())
    answers = tuple(_answer(item) for item in values.pop("known_answers", None) or ())
    parts: dict[str, Any] = {"name": name, "weights": weights, "metrics": metrics, "known_answers": answers}
    result = Card(**values, **parts)
    _check(result)
    return result


def _answer(data: object) -> KnownAnswer:
    values = _fields(data, KnownAnswer, "a known answer")
    given = values["input"]
    if not isinstance(given, Mapping) or given.get("kind") not in INPUTS:
        raise ValueError(f"the input of a known answer has a kind, one of {', '.join(INPUTS)}, got {given!r}")
    needed = INPUTS[given["kind"]]
    if not set(needed) <= set(given) <= {"kind", "size", *needed}:
        raise ValueError(f"an input of kind {given['kind']} has {', '.join(needed)}, got {', '.join(map(str, given))}")
    if "file" in given:
        safe_name(given["file"], "input.file")
    tokens = tuple(values["tokens"])
    if not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise ValueError("the tokens of a known answer are whole numbers, at least one")
    answer = KnownAnswer(**{**values, "input": dict(given), "tokens": tokens})
    if not 0 <= answer.tolerance < len(tokens):
        raise ValueError(f"tolerance lies below the number of tokens, got {answer.tolerance} for {len(tokens)}")
    return answer


def _fields(data: object, kind: type, what: str, derived: Iterable[str] = ()) -> dict[str, Any]:
    """The mapping `data` after checking its keys against the fields of a dataclass."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} is a mapping, got {type(data).__name__}")
    fields = {key: value for key, value in kind.__dataclass_fields__.items() if key not in derived}  # type: ignore[attr-defined]
    extra = sorted(str(key) for key in data if key not in fields)
    if extra:
        raise ValueError(f"{what} has unknown keys {extra}; known: {', '.join(fields)}")
    needed = [key for key, value in fields.items() if value.default is value.default_factory and key not in data]
    if needed:
        raise ValueError(f"{what} lacks {', '.join(needed)}")
    empty = {key for key, value in data.items() if value is None and value is not fields[key].default}
    return {key: value for key, value in data.items() if key not in empty}


def _check(item: Card) -> None:
    weights = item.weights
    if item.modality not in MODALITIES:
        raise ValueError(f"modality is one of {', '.join(MODALITIES)}, got {item.modality!r}")
    if weights.layout not in get_args(Layout):
        raise ValueError(f"weights.layout is one of {', '.join(get_args(Layout))}, got {weights.layout!r}")
    if weights.layout == "reference" and not item.config:
        raise ValueError("the layout 'reference' needs config, the reference's own configuration")
    if item.kind not in get_args(Kind):
        raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, got {item.kind!r}")
    if item.kind == "generator" and weights.layout == "zoo" and not isinstance(item.config.get("generator"), dict):
        raise ValueError("a generator of the layout 'zoo' needs config with its generator node")
    if item.kind == "tokenizer" and weights.layout == "zoo" and not item.recipe:
        raise ValueError("the layout 'zoo' needs recipe, the recipe that builds the model")
    if weights.hub is not None and not HUB_ID.fullmatch(weights.hub):
        raise ValueError(f"weights.hub is org/name, got {weights.hub!r}")
    if weights.hub is None and not weights.embedded and not weights.source:
        raise ValueError("weights needs a hub id, embedded: true, or a source to fetch the file from by hand")
    for digest in (weights.sha256, *(part.sha256 for part in weights.parts.values())):
        if digest is not None and not SHA256.fullmatch(str(digest)):
            raise ValueError(f"a sha256 of weights is 64 lower-case hexadecimal digits, got {digest!r}")
    for metric in item.metrics:
        if not metric.origin.startswith(("reported: ", "measured: ")) or not metric.source:
            raise ValueError(f"{metric.name} has an origin 'reported: WHO' or 'measured: HOW', got {metric.origin!r}")
    if weights.parts and (weights.hub is None or weights.embedded or weights.sha256 is not None):
        raise ValueError("weights in parts lie on a hub, are not embedded, and each part has its own sha256")
    if item.params is not None and not isinstance(item.params, int):
        raise ValueError(f"params is a whole number, got {item.params!r}")
    safe_name(weights.file, "weights.file")
    for part in weights.parts.values():
        safe_name(part.file, "the file of a part")
