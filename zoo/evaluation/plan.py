"""What an evaluation is asked for, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

from quantizers import Quantizer
from zoo.evaluation.measures import measure
from zoo.evaluation.meters import Asked
from zoo.evaluation.origin import digest_of_file
from zoo.evaluation.outcome import Setting
from zoo.evaluation.protocols import Options, Protocol
from zoo.evaluation.views.base import View
from zoo.spec import TokenizerSpec
from zoo.tokenizer import Tokenizer

__all__ = ["asked_for", "check_cuts", "reference_of", "resolve", "settings_of", "view_of"]

VIEWS = {
    "image": ("zoo.evaluation.views.images", "ImageView"),
    "audio": ("zoo.evaluation.views.sounds", "SoundView"),
    "shape": ("zoo.evaluation.views.shapes", "ShapeView"),
}


def view_of(modality: str) -> type[View]:
    """The view of a modality."""
    module, name = VIEWS[modality]
    return getattr(import_module(module), name)


def resolve(protocol: Protocol, specs: Sequence[TokenizerSpec]) -> list[Protocol]:
    """The protocol for each tokenizer: where pictures have the tokenizer's size, that size becomes part of its name.

    A tokenizer of any size takes that of the first that has one, so that they can be compared; pictures stay as they
    are where none has.

    Raises:
        ValueError: a tokenizer is for another modality, or not square.
    """
    for spec in specs:
        if spec.modality != protocol.modality:
            raise ValueError(
                f"the protocol {protocol.name} is for {protocol.modality} tokenizers, one of these is for "
                f"{spec.modality}; evaluate them apart, or name another protocol"
            )
    if protocol.size != "tokenizer":
        return [protocol] * len(specs)
    fixed = [spec.input_shape[1:] for spec in specs if not spec.any_size]
    for height, width in fixed:
        if height != width:
            raise ValueError(f"protocols cut squares out; there is none for a tokenizer of {height} x {width}")
    whole = replace(protocol, view={**protocol.view, "size": None})
    found = []
    for spec in specs:
        shape = fixed[0] if fixed and spec.any_size else spec.input_shape[1:]
        found.append(protocol.at(shape[0]) if fixed or not spec.any_size else whole)
    return found


def asked_for(protocol: Protocol, names: Sequence[str] | None) -> list[Asked]:
    """The measures of a protocol, or those of some names with the options that the protocol has for them.

    Args:
        names: `+NAME` adds to the protocol's measures, where all names are written so; None for the protocol's.

    Raises:
        KeyError: there is no measure of a name.
        ValueError: a measure is for another modality.
    """
    wanted: Mapping[str, Sequence[Options]] = protocol.metrics
    if names is not None:
        added = all(name.startswith("+") for name in names)
        chosen = [*wanted, *(name[1:] for name in names)] if added else names
        wanted = {name: protocol.metrics.get(name, [{}]) for name in chosen}
    found = [Asked(measure(name), options) for name, several in wanted.items() for options in several]
    for item in found:
        if protocol.modality not in item.measure.modalities:
            kinds = ", ".join(item.measure.modalities)
            raise ValueError(f"{item.measure.name} is for {kinds}, {protocol.name} is for {protocol.modality}")
    return found


def settings_of(tokenizer: Tokenizer, tokens: Sequence[int], codebooks: Sequence[int]) -> list[Setting]:
    """How a tokenizer is used: every count of tokens with every count of codebooks that it can be cut to.

    Counts beyond what it has stand for all. What it cannot be cut to is left out; if nothing is left, it is used whole.

    Args:
        tokens: counts of `--tokens`, none for the whole code.
        codebooks: likewise.
    """
    spec = tokenizer.spec
    lengths = _lengths(spec, tokens)
    depths: Sequence[int | None] = [None]
    if codebooks and _residual(tokenizer.quantizer):
        depths = sorted({min(count, len(spec.codebook_sizes)) for count in codebooks})
    return [Setting(length, depth) for length in lengths for depth in depths]


def check_cuts(tokenizers: Sequence[Tokenizer], tokens: Sequence[int], codebooks: Sequence[int]) -> None:
    """Raise ValueError where counts are given and no tokenizer can be cut to them."""
    for name, counts in (("tokens", tokens), ("codebooks", codebooks)):
        if counts and min(counts) < 1:
            raise ValueError(f"{name} are at least 1, got {', '.join(map(str, counts))}")
    if tokens and not any(item.spec.flexible or item.spec.order == "scales" for item in tokenizers):
        raise ValueError("--tokens needs a model whose prefixes decode; `zoo info NAME` says which do")
    if codebooks and not any(_residual(item.quantizer) for item in tokenizers):
        raise ValueError("--codebooks needs a residual codec, whose first codebooks decode alone")


def reference_of(protocol: Protocol, path: Path | None) -> dict[str, Any]:
    """What sets of items are compared with, as it stands in results.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the protocol wants statistics and has none, or wants none.
    """
    if path is None:
        if protocol.reference == "statistics":
            raise ValueError(f"{protocol.name} compares with stored statistics: name the file with --reference")
        return {"kind": "paired"}
    if protocol.reference == "paired":
        raise ValueError(
            f"{protocol.name} compares with the originals; leave --reference out, or take a protocol that does not"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no reference statistics {path}")
    return {"kind": "statistics", "file": path.name, "sha256": digest_of_file(path)}


def _lengths(spec: TokenizerSpec, tokens: Sequence[int]) -> Sequence[int | None]:
    if not tokens:
        return [None]
    if spec.order == "scales" and not spec.flexible:
        whole = set(accumulate(spec.scales))
        return sorted(whole & set(tokens)) or [None]
    if not spec.flexible:
        return [None]
    return sorted({count if spec.any_size else min(count, spec.num_tokens) for count in tokens})


def _residual(quantizer: Quantizer) -> bool:
    return quantizer.prefixes
