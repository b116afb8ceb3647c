"""Weight norm (arXiv 1602.07868) in published files: folded into plain weights when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["fold_weight_norm", "folded_gains"]

STYLES = (  # endings of the gain, of the direction and of the plain weight
    ("weight_g", "weight_v", "weight"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1", "weight"),
)


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace every gain g and direction v by the weight g * v / |v|, the norm over all axes but that of the gains.

    That is the first one, in all but HuBERT's position embedding, which has a gain for each tap.

    Both of PyTorch's key styles are known: `weight_g` and `weight_v`, and `parametrizations.weight.original0` and
    `original1`. Other tensors pass through.

    Raises:
        ValueError: a gain without its direction, or of a shape that does not go along one axis of it.
    """
    folded: dict[str, Tensor] = {}
    for key, tensor in state.items():
        ending = _ending(key)
        if ending is None:
            if not key.endswith(tuple(direction for _, direction, _ in STYLES)):
                folded[key] = tensor
            continue
        gain, direction, weight = ending
        stem = key.removesuffix(gain)
        if stem + direction not in state:
            raise ValueError(f"{key} has no {stem + direction} beside it; the file is not complete")
        v = state[stem + direction]
        axis = next((axis for axis, side in enumerate(tensor.shape) if side != 1), 0)
        if tensor.shape != tuple(side if place == axis else 1 for place, side in enumerate(v.shape)):
            raise ValueError(f"{key} has gains along one axis of {tuple(v.shape)}, got {tuple(tensor.shape)}")
        folded[stem + weight] = torch._weight_norm(v, tensor, axis)  # rounds as the modules of the files do
    return folded


def folded_gains(state: Mapping[str, Tensor]) -> int:
    """How many numbers the gains of weight norm are: parameters of the file that its folded form does without."""
    return sum(tensor.numel() for key, tensor in state.items() if _ending(key) is not None)


def _ending(key: str) -> tuple[str, str, str] | None:
    """The style whose gain this key names."""
    return next((style for style in STYLES if key.endswith(style[0])), None)
