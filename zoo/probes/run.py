"""Probes of a tokenizer: frozen features, a split, classifiers, and everything that the numbers depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.evaluation.origin import digest_of_weights, machine, versions
from zoo.metrics.strands import alphabets
from zoo.probes.classifier import Schedule, classifier_probe
from zoo.probes.features import Embedded, Encoding, Told
from zoo.probes.labels import Labelled, divide, kind_of, open_labelled
from zoo.probes.linear import STRENGTHS, linear_probe
from zoo.probes.neighbours import nearest_classes
from zoo.probes.scores import score
from zoo.tokenizer import Tokenizer

__all__ = ["Probe", "probe"]

KINDS = ("linear", "knn", "classifier")
USUAL = {
    "image": ("linear", "knn"),
    "audio": ("classifier", "linear", "knn"),
    "shape": ("linear", "knn"),
}
MOST_ENTRIES = 2**20


@dataclass(frozen=True, slots=True)
class Probe:
    """How a tokenizer is probed.

    Attributes:
        kinds: of "linear", "knn" and "classifier"; None for those usual for the tokenizer's modality.
        fraction: of each class for the test where there are no test data, and of the rest for validation.
        neighbours: of the kNN probe.
        schedule: of the classifier.
        size: side of the square that pictures are cut to; None for the tokenizer's own size.
        seconds: of each sound.
        batch_size: items that are encoded together.
    """

    kinds: tuple[str, ...] | None = None
    fraction: float = 0.2
    neighbours: int = 10
    schedule: Schedule = field(default_factory=Schedule)
    size: int | None = None
    seconds: float = 10.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for kind in self.kinds or ():
            if kind not in KINDS:
                raise ValueError(f"a probe is one of {', '.join(KINDS)}, got {kind!r}")
        if not 0 < self.fraction < 1:
            raise ValueError(f"the fraction of each class for the test lies between 0 and 1, got {self.fraction}")


@dataclass(frozen=True, slots=True)
class Part:
    """Items with known classes."""

    items: list[Embedded]
    labels: Tensor

    def take(self, places: Sequence[int]) -> Part:
        """Some of them."""
        return Part([self.items[place] for place in places], self.labels[list(places)])


def probe(
    tokenizer: Tokenizer,
    data: str | Path,
    test: str | Path | None = None,
    how: Probe | None = None,
    *,
    name: str = "",
    told: Told = lambda name, error: None,
    started: Callable[[int], None] = lambda items: None,
) -> dict[str, Any]:
    """Tell classes apart by a frozen tokenizer's tokens.

    Args:
        tokenizer: on its device, in evaluation mode.
        data: labelled items to learn from, and to test on without `test`; see `open_labelled`.
        test: labelled items of the same classes.
        how: options; all usual ones by default.
        name: of the tokenizer, for the record.
        told: gets the name of every item when it is encoded, and why it failed if it did.
        started: gets the number of items before the first.

    Returns:
        Plain data: `results`, for each probe and kind of features the accuracy on the test items, its 95 % interval and
        the settings chosen; `chance` (one over the number of classes) and `majority` (the accuracy of always naming the
        class most frequent in training) to compare with; and what they depend on: protocol, data with digests, failed
        items, digest of the weights, versions.

    Raises:
        ValueError: fewer than two classes, classes with too few items, or test items of unknown classes.
    """
    how = how or Probe()
    kind = kind_of(tokenizer.spec.modality)
    known, judged = open_labelled(data, kind), None if test is None else open_labelled(test, kind, "test")
    classes = _classes(known, judged)
    started(len(known.labels) + (0 if judged is None else len(judged.labels)))
    failed: list[dict[str, str]] = []

    def tell(item: str, error: Exception | None) -> None:
        if error is not None:
            failed.append({"name": item, "error": type(error).__name__, "message": str(error)})
        told(item, error)

    side = None if how.size is None else (how.size, how.size)
    if side is not None and not tokenizer.spec.any_size:
        taken = tokenizer.spec.input_shape
        raise ValueError(f"--size is for tokenizers of any size; {name or 'this one'} takes {taken}, leave it out")
    encoding = Encoding(tokenizer.eval(), side, how.seconds, how.batch_size)
    learned, digest = _embed(encoding, known, classes, tell)
    held, held_digest = (None, None) if judged is None else _embed(encoding, judged, classes, tell)
    for number, label in enumerate(classes):
        if not bool((learned.labels == number).any()):
            raise ValueError(f"no item of class {label!r} could be read; the first error: {failed[0]['message']}")
    names = [known.source.names[item.place] for item in learned.items]
    split = divide(names, [classes[int(label)] for label in learned.labels], how.fraction, apart=held is not None)
    parts = [learned.take(split.train), learned.take(split.validation), held or learned.take(split.test)]
    if not parts[2].items:
        raise ValueError(f"no item of {test} could be read; the first error: {failed[0]['message']}")
    most = torch.bincount(torch.cat([parts[0].labels, parts[1].labels]), minlength=len(classes)).argmax()
    kinds = dict.fromkeys(how.kinds or USUAL[tokenizer.spec.modality])
    return {
        "format": 1,
        "model": name,
        "weights": digest_of_weights(tokenizer),
        "results": [row for each in kinds for row in _results(each, parts, len(classes), tokenizer, how)],
        "chance": 1 / len(classes),
        "majority": float((parts[2].labels == most).double().mean()),
        "classes": list(classes),
        "counts": {
            part: torch.bincount(some.labels, minlength=len(classes)).tolist()
            for part, some in zip(("train", "validation", "test"), parts, strict=True)
        },
        "data": {"root": str(data), "digest": digest},
        "test": None if test is None else {"root": str(test), "digest": held_digest},
        "protocol": _protocol(tokenizer, how, apart=held is not None),
        "failed": failed,
        "machine": machine(str(tokenizer.device)),
        "versions": versions(),
    }


def _classes(known: Labelled, judged: Labelled | None) -> tuple[str, ...]:
    classes = known.classes
    if judged is not None and (strange := sorted(set(judged.classes) - set(classes))):
        raise ValueError(f"the test data have classes that were never learned: {', '.join(strange)}")
    if len(classes) < 2:
        raise ValueError(f"a probe tells classes apart and needs two or more, got {', '.join(classes)}")
    return classes


def _embed(encoding: Encoding, data: Labelled, classes: Sequence[str], told: Told) -> tuple[Part, str]:
    digest, numbers = hashlib.sha256(), {label: number for number, label in enumerate(classes)}
    items = encoding.run(data.source, digest, told)
    labels = torch.tensor([numbers[data.labels[item.place]] for item in items], dtype=torch.int64)
    return Part(items, labels), digest.hexdigest()


def _results(kind: str, parts: Sequence[Part], classes: int, tokenizer: Tokenizer, how: Probe) -> list[dict[str, Any]]:
    truth = parts[2].labels
    if kind == "classifier":
        scores = score(_classified(parts, classes, tokenizer, how.schedule), truth, classes)
        return [{"kind": kind, "features": "tokens", **scores, "settings": how.schedule.facts()}]
    rows = []
    for features, (train, validation, test) in _vectors(parts).items():
        if kind == "linear":
            learned = [(train, parts[0].labels), (validation, parts[1].labels)]
            predicted, strength = linear_probe(learned, test, classes)
            settings: dict[str, Any] = {"l2": strength}
        else:
            known, labels = torch.cat([train, validation]), torch.cat([parts[0].labels, parts[1].labels])
            predicted = nearest_classes(known, labels, test, classes, how.neighbours)
            settings = {"neighbours": min(how.neighbours, len(known))}
        scores = score(predicted[None], truth, classes)
        rows.append({"kind": kind, "features": features, "width": test.shape[1], **scores, "settings": settings})
    return rows


def _vectors(parts: Sequence[Part]) -> dict[str, list[Tensor]]:
    """Features of all parts: the mean latent, and all latents in a row where every item has the same places."""
    items = [item for part in parts for item in part.items]
    ways: dict[str, Callable[[Embedded], Tensor]] = {"mean": lambda item: item.latents.mean(0)}
    lengths = {len(item.latents) for item in items}
    if all(item.whole for item in items) and len(lengths) == 1 and lengths != {1}:
        ways["concatenated"] = lambda item: item.latents.flatten()

    def rows(part: Part, way: Callable[[Embedded], Tensor]) -> Tensor:
        return torch.stack([way(item) for item in part.items]) if part.items else way(items[0])[None][:0]

    return {name: [rows(part, way) for part in parts] for name, way in ways.items()}


def _classified(parts: Sequence[Part], classes: int, tokenizer: Tokenizer, schedule: Schedule) -> Tensor:
    spec = tokenizer.spec
    entries = 0 if spec.continuous else sum(alphabets(spec))
    entries = entries if entries <= MOST_ENTRIES else 0

    def given(part: Part) -> list[Tensor]:
        return [item.ids if entries and item.ids is not None else item.latents for item in part.items]

    train, validation, test = parts
    return classifier_probe(
        (given(train), train.labels),
        (given(validation), validation.labels),
        given(test),
        classes,
        entries=entries,
        schedule=schedule,
    )


def _protocol(tokenizer: Tokenizer, how: Probe, *, apart: bool) -> dict[str, Any]:
    spec = tokenizer.spec
    shape = spec.input_shape[1:] if how.size is None else (how.size, how.size)
    views: dict[str, dict[str, Any]] = {
        "image": {"size": list(shape), "fit": "crop"},
        "audio": {"seconds": how.seconds, "sample_rate": spec.sample_rate, "channels": "mixed"},
        "shape": {"points": spec.input_shape[0], "seed": 0},
    }
    return {
        "split": "test folder" if apart else "sha256 of the names, a share of each class",
        "fraction": how.fraction,
        "view": views[spec.modality],
        "standardized": "features of the linear probe, by training and validation items",
        "strengths": list(STRENGTHS),
        "neighbours": how.neighbours,
        "schedule": asdict(how.schedule),
    }
