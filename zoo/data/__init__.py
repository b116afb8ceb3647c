"""From files to batches in [-1, 1]. Names are imported when first used: reading an image needs no Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["AudioData", "ImageData", "ShapeData", "StepSampler", "TokenData"]

if TYPE_CHECKING:
    from zoo.data.module import ImageData
    from zoo.data.recordings import AudioData
    from zoo.data.sampler import StepSampler
    from zoo.data.shapes import ShapeData
    from zoo.data.tokens import TokenData

_HOMES = {
    "AudioData": "zoo.data.recordings",
    "ImageData": "zoo.data.module",
    "ShapeData": "zoo.data.shapes",
    "StepSampler": "zoo.data.sampler",
    "TokenData": "zoo.data.tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo.data' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
