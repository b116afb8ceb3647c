"""Data sets as tokens: what `zoo export` does, and what it writes."""

from __future__ import annotations

from zoo.export.format import Manifest, Record

__all__ = ["Manifest", "Record"]
