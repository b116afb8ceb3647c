"""From a recipe to an object: composition by Hydra, construction from the rooms' public names only."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from zoo.tokenizer import Tokenizer

__all__ = ["GENERATOR_ROOMS", "ROOMS", "build", "compose", "instantiate"]

ROOMS = ("quantizers", "encoders", "decoders", "zoo.families", "zoo.generators", "zoo.objectives", "zoo.data")
MODEL_ROOMS = ROOMS[:4]
GENERATOR_ROOMS = ("zoo.generators", "quantizers")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def public(target: object, rooms: Sequence[str] = ROOMS) -> Any:
    """The object behind a `_target_`, which is a room plus a name in that room's `__all__`.

    Raises:
        ValueError: anything else; nothing is imported for a name outside the rooms.
    """
    if not isinstance(target, str):
        raise ValueError(f"_target_ must be text such as 'quantizers.FSQ', got {type(target).__name__}")
    room, _, name = target.rpartition(".")
    if room not in rooms:
        raise ValueError(f"_target_ {target!r} is refused: it must be one of {', '.join(rooms)} plus a public name")
    module = importlib.import_module(room)
    if name not in module.__all__:
        raise ValueError(f"_target_ {target!r} is refused: {room} offers {', '.join(sorted(module.__all__))}")
    return getattr(module, name)


def instantiate(node: Any, rooms: Sequence[str] = ROOMS) -> Any:
    """Build every mapping with a `_target_`, innermost first; other values pass through.

    Args:
        node: plain data (mappings, sequences, numbers, text).
        rooms: import rooms that `_target_` may name.

    Raises:
        ValueError: a forbidden `_target_`, an unknown underscore key, or arguments that do not fit.
    """
    if isinstance(node, Mapping):
        special = [key for key in node if str(key).startswith("_") and key != "_target_"]
        if special:
            raise ValueError(f"keys {special} are refused: only _target_ has a meaning here")
        target = public(node["_target_"], rooms) if "_target_" in node else None
        values = {str(key): instantiate(value, rooms) for key, value in node.items() if key != "_target_"}
        if target is None:
            return values
        try:
            return target(**values)
        except TypeError as error:
            raise ValueError(f"{node['_target_']} does not take these arguments: {error}") from error
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [instantiate(value, rooms) for value in node]
    return node


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The whole, unresolved config of a recipe with `key=value` overrides applied.

    Raises:
        KeyError: no such recipe; the closest names are suggested.
        ValueError: an override does not fit.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from zoo.store.cards import list_recipes, unknown

    if name not in list_recipes(kind=None):
        raise unknown("recipe", name, list_recipes(kind=None))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(RECIPES), version_base="1.3"):
            return hydra_compose(name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"recipe {name!r}: {error}") from error


def build(recipe: str | Mapping[str, Any], *, device: str = "cpu") -> Tokenizer:
    """A freshly initialised tokenizer.

    Args:
        recipe: a recipe's name (`zoo.list_recipes()`) or its resolved `tokenizer` node.
        device: where the parameters go; "meta" allocates nothing.

    Raises:
        KeyError: no such recipe.
        ValueError: the node names something outside the rooms or does not describe a tokenizer.
    """
    import torch

    from zoo.tokenizer import Tokenizer

    if isinstance(recipe, str):
        from omegaconf import OmegaConf

        config = compose(recipe)
        if "tokenizer" not in config:
            raise ValueError(
                f"recipe {recipe!r} describes a generator; train it with `zoo train {recipe} data.tokens=DIR`"
            )
        node = OmegaConf.to_container(config.tokenizer, resolve=True)
    else:
        node = recipe
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError("a tokenizer node is a mapping with a _target_, for example {_target_: zoo.families.TiTok}")
    with torch.device(device) if device != "cpu" else nullcontext():
        tokenizer = instantiate(node, MODEL_ROOMS)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{node['_target_']} is not a tokenizer; the outer _target_ is one of zoo.families")
    tokenizer.config = {str(key): value for key, value in node.items()}
    return tokenizer
