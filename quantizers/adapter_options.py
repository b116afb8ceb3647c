"""What `VectorQuantizePytorch` builds: names of vector-quantize-pytorch and the options that meet the protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["GROUPED", "RESIDUAL", "checked"]

GROUPED = ("GroupedResidualVQ", "GroupedResidualFSQ", "GroupedResidualLFQ")
RESIDUAL = ("ResidualVQ", "ResidualSimVQ", "ResidualFSQ", "ResidualLFQ")
_SINGLE = ("VectorQuantize", "SimVQ", "FSQ", "FSP", "LFQ", "BinaryMapper", "RandomProjectionQuantizer")
_SUPPORTED = (*_SINGLE, *RESIDUAL, *GROUPED)
_REFUSED = {
    "LatentQuantize": "its values learn, but its indices decode to those of the start; use quantizers.FSQ",
    "HierarchicalVQ": "its scales depend on all positions, and padding would reach them; use quantizers.MultiScaleVQ",
    "EvoLFQ": "it is an encoder, a quantizer and a decoder in one; build its 'LFQ'",
}
_CHANNELS_LAST = "latents are (B, N, D) here"
_UNROTATED = "its indices decode without it"
_FIXED: dict[str, tuple[Any, str]] = {
    "channel_last": (True, _CHANNELS_LAST),
    "channel_first": (False, _CHANNELS_LAST),
    "is_channel_first": (False, _CHANNELS_LAST),
    "accept_image_fmap": (False, _CHANNELS_LAST),
    "accept_3d_fmap": (False, _CHANNELS_LAST),
    "return_indices": (True, "the protocol returns indices"),
    "affine_param": (False, "codes would move with every batch, and indices not decode to them"),
    "manual_ema_update": (False, "nobody would call it"),
    "sync_codebook": (False, "ranks are synchronised whenever there are several"),
    "deterministic_on_eval": (True, "the code of a latent is one and the same in eval"),
}
_ROTATIONS = {"orthogonal_rotation": (False, _UNROTATED)}
_SPHERES = {**_ROTATIONS, "spherical": (False, _UNROTATED)}
_FIXED_FOR: dict[str, dict[str, tuple[Any, str]]] = {
    "RandomProjectionQuantizer": {"kmeans_init": (False, "nothing here learns")},
    "ResidualFSQ": _ROTATIONS,
    "GroupedResidualFSQ": _ROTATIONS,
    "ResidualLFQ": _SPHERES,
    "GroupedResidualLFQ": _SPHERES,
}
_LARGEST_SUM = 2**24  # FSQ and FSP add their digits up in float32


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the library takes them.

    Raises:
        ValueError: a name or an option that cannot be built.
    """
    if name not in _SUPPORTED:
        reason = _REFUSED.get(name, f"expected one of {', '.join(_SUPPORTED)}")
        raise ValueError(f"VectorQuantizePytorch cannot build {name!r}: {reason}")
    for option, value in options.items():
        if not _plain(value):
            raise ValueError(
                f"VectorQuantizePytorch expects options of plain data, got {option}={type(value).__name__}; "
                "numbers, texts, lists and mappings can be stored in a recipe"
            )
    for option, (fixed, reason) in {**_FIXED, **_FIXED_FOR.get(name, {})}.items():
        if options.get(option) not in (None, fixed):
            raise ValueError(f"{name} needs {option}={fixed}, got {options[option]!r}: {reason}")
    if isinstance(options.get("levels"), list | tuple) and math.prod(options["levels"]) > _LARGEST_SUM:
        raise ValueError(
            f"{name} of vector-quantize-pytorch computes indices in float32, exact below 2^24 codes, got "
            f"{math.prod(options['levels'])}; use quantizers.FSQ"
        )
    built = dict(options)
    if name == "BinaryMapper":
        built["deterministic_on_eval"] = True
    if isinstance(options.get("codebook_size"), list):
        built["codebook_size"] = tuple(options["codebook_size"])
    return built


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_plain(entry) for entry in value)
    return value is None or type(value) in (bool, int, float, str)
