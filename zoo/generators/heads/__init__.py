"""Heads: how codes become the sequence that a transformer reads, and what it says becomes codes."""

from __future__ import annotations

from zoo.generators.heads.base import Head
from zoo.generators.heads.depth import Depth
from zoo.generators.heads.levels import Levels
from zoo.generators.heads.shuffle import Shuffle
from zoo.generators.heads.stream import Stream

__all__ = ["Depth", "Head", "Levels", "Shuffle", "Stream"]
