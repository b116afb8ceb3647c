"""From a name, a folder or a hub id to a tokenizer with its weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.store.build import build, public
from zoo.store.cards import HUB_ID, Card, card, cards, list_models
from zoo.store.hub import fetch
from zoo.store.weights import load_strict, read_state

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = ["card_state", "inside", "load", "read_config", "read_document", "tell_license"]

CONFIG, WEIGHTS, FORMAT = "config.json", "model.safetensors", 1
MAX_CONFIG = 10_000_000
log = logging.getLogger("zoo")


def load(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    offline: bool | None = None,
) -> Tokenizer:
    """A tokenizer with its weights, in eval mode.

    Args:
        name: a card's name (`zoo.list_models()`), a folder written by `save_pretrained`, or a hub id `org/name`
            whose repository holds such a folder or whose weights a card describes.
        weights: a file that you have, in place of the one that the card names, or a folder of files where it names
            several; cards whose weights are on no hub need it.
        device: where it goes.
        dtype: floating dtype of encoder and decoder, None for float32; quantizers stay in float32.
        revision: hub commit, tag or branch; None for what the card names, else the newest.
        offline: use the hub's cache only; None follows `HF_HUB_OFFLINE`.

    Raises:
        KeyError: no such model; the closest names are suggested.
        FileNotFoundError, PermissionError, ConnectionError: a file cannot be had; the message says what was tried.
        ValueError: a file is damaged, is not what it claims to be, or names something outside the rooms; or `weights`
            is given where no card says how to read them.
        RuntimeError: the weights do not fit the model.
    """
    tokenizer = _find(name, weights, revision, offline)
    return tokenizer.eval().to(device=device, dtype=dtype)


def _find(name: str | Path, weights: str | Path | None, revision: str | None, offline: bool | None) -> Tokenizer:
    text = str(name)
    if isinstance(name, str) and name in list_models():
        return _from_card(card(name), revision, offline, file=weights)
    if weights is not None:
        raise ValueError(f"weights= goes with the name of a card, which says how to read them; {text!r} is none")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder)
    if isinstance(name, str) and HUB_ID.fullmatch(name):
        try:
            return _from_hub(name, revision, offline)
        except (FileNotFoundError, ConnectionError) as error:
            raise type(error)(f"{error}; nor is there a folder {name!r}") from error
    if isinstance(name, Path) or "/" in text or "\\" in text:
        raise FileNotFoundError(f"no model folder {text!r}; expected a folder with {CONFIG} and {WEIGHTS}")
    return _from_card(card(text), revision, offline)


def _from_card(item: Card, revision: str | None, offline: bool | None, file: str | Path | None = None) -> Tokenizer:
    if item.kind == "generator":
        raise ValueError(
            f"{item.name} is a generator; open it with zoo.generators.pipeline.load, or use `zoo generate`"
        )
    weights = item.weights
    state = card_state(item, revision, offline, None if file is None else Path(file).expanduser())
    if weights.research_only:
        tell_license(item.name, weights.license)
    if weights.layout == "reference":
        return public(f"zoo.families.{item.family}").from_reference(item.config, state)
    if item.recipe is None:
        raise ValueError(f"{item.name}: the card names no recipe")
    tokenizer = build(item.recipe, device="meta")
    load_strict(tokenizer, state, source=item.name)
    return tokenizer


def card_state(item: Card, revision: str | None, offline: bool | None, given: Path | None = None) -> dict[str, Tensor]:
    """The weights that a card describes, from a file or folder that is given, the package or the hub."""
    weights, wanted = item.weights, revision or item.weights.revision

    def read(path: Path, sha256: str | None) -> dict[str, Tensor]:
        return read_state(path, sha256=sha256 if revision in (None, weights.revision) else None)

    if weights.parts and weights.hub is not None:
        state: dict[str, Tensor] = {}
        for prefix, part in weights.parts.items():
            here = given and given / Path(part.file).name
            found = read(here or fetch(weights.hub, part.file, revision=wanted, offline=offline), part.sha256)
            state |= {f"{prefix}.{key}": tensor for key, tensor in found.items()}
        return state
    if given is not None:
        path = given
    elif weights.embedded and item.weights_path.is_file():
        path = item.weights_path
    elif weights.source is not None and weights.hub is None:
        raise FileNotFoundError(
            f"{item.name}: its weights are on no hub; download {weights.file} ({weights.source}) and call "
            f"zoo.load({item.name!r}, weights='path/to/{weights.file}')"
        )
    elif weights.hub is None:
        raise FileNotFoundError(f"{item.name}: its weights belong to the package but {item.weights_path} is missing")
    else:
        path = fetch(weights.hub, weights.file, revision=wanted, offline=offline)
    return read(path, weights.sha256)


def _from_hub(repo: str, revision: str | None, offline: bool | None) -> Tokenizer:
    known = [item for item in cards() if item.weights.hub == repo]
    if len(known) == 1:
        return _from_card(known[0], revision, offline)
    if known:
        raise ValueError(f"{repo} holds several models; load one of {', '.join(item.name for item in known)}")
    config = fetch(repo, CONFIG, revision=revision, offline=offline)
    return _restore(config, lambda: fetch(repo, WEIGHTS, revision=revision, offline=offline), repo)


def _from_folder(folder: Path) -> Tokenizer:
    return _restore(inside(folder, CONFIG), lambda: inside(folder, WEIGHTS), str(folder))


def _restore(config: Path, weights: Callable[[], Path], source: str) -> Tokenizer:
    node = read_config(config, source)
    tokenizer = build(node, device="meta")
    load_strict(tokenizer, read_state(weights()), source=source)
    return tokenizer


def inside(folder: Path, name: str) -> Path:
    """A file of a model folder; a link may only lead to the folder itself or to the hub cache it is a snapshot of."""
    path = folder / name
    if not path.is_file():
        trained = folder / "model"  # where a training puts it
        found = (trained / name).is_file()
        hint = f"did you mean {trained}?" if found else "expected a folder written by save_pretrained"
        raise FileNotFoundError(f"{folder} has no {name}; {hint}")
    allowed = [folder.resolve()]
    if folder.absolute().parent.name == "snapshots":
        allowed.append(folder.absolute().parent.parent.resolve() / "blobs")
    if not any(path.resolve().is_relative_to(root) for root in allowed):
        raise ValueError(f"{path} is refused: it is a link that leaves the folder; copy the file instead")
    return path


def read_config(path: Path, source: str) -> dict[str, Any]:
    """The tokenizer node of a `config.json`: plain data, nothing in it is resolved or looked up."""
    config = read_document(path, source)
    if isinstance(config.get("generator"), dict):
        raise ValueError(f"{source} is a generator; open it with zoo.generators.pipeline.load, or use `zoo generate`")
    if config.get("format") != FORMAT or not isinstance(config.get("tokenizer"), dict):
        raise ValueError(
            f'{source}: expected {CONFIG} with "format": {FORMAT} and a "tokenizer" node; for a checkpoint of another '
            "code base use its family: zoo.families.NAME.from_reference(config, state)"
        )
    return config["tokenizer"]


def read_document(path: Path, source: str) -> dict[str, Any]:
    """A whole `config.json` as plain data; `{}` where it holds something else than a mapping."""
    if path.stat().st_size > MAX_CONFIG:
        raise ValueError(f"{source}: {CONFIG} has {path.stat().st_size} bytes, expected at most {MAX_CONFIG}")
    try:
        config = json.loads(path.read_text("utf-8"))
        _refuse_interpolation(config)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: {CONFIG} is refused: {error}") from error
    return config if isinstance(config, dict) else {}


def _refuse_interpolation(node: Any) -> None:
    """A saved model holds values; `${...}` is what a resolver would run."""
    if isinstance(node, str) and "${" in node:
        raise ValueError(f"the interpolation {node!r} is not a value")
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _refuse_interpolation(value)


@cache
def tell_license(name: str, license: str) -> None:
    log.warning("%s: its weights are under %r, which is not an open licence; read its terms before use", name, license)
