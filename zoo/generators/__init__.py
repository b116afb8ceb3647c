"""Generators of codes: GPT with its heads, and what they share. Names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.generators.base import ABSENT, Generator, Losses, Vocabulary
    from zoo.generators.gpt import GPT
    from zoo.generators.heads import Depth, Head, Levels, Shuffle, Stream
    from zoo.generators.maskgit import MaskGIT
    from zoo.generators.rar import RAR
    from zoo.generators.schedules import GuidanceSchedule

_HOMES = {
    "GPT": "gpt",
    "Depth": "heads",
    "Head": "heads",
    "Levels": "heads",
    "Shuffle": "heads",
    "Stream": "heads",
    "RAR": "rar",
    "MaskGIT": "maskgit",
    "GuidanceSchedule": "schedules",
    "ABSENT": "base",
    "Generator": "base",
    "Losses": "base",
    "Vocabulary": "base",
}
__all__ = [
    "ABSENT",
    "Depth",
    "GPT",
    "Generator",
    "GuidanceSchedule",
    "Head",
    "Levels",
    "Losses",
    "MaskGIT",
    "RAR",
    "Shuffle",
    "Stream",
    "Vocabulary",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo.generators' has no attribute {name!r}")
    return getattr(import_module(f"zoo.generators.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
