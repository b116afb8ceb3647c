"""Keys of the published DAC and SNAC files under ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from encoders.layers.time_conv import from_conv, from_transposed
from zoo.families.weight_norm import fold_weight_norm

__all__ = ["convert_original", "convert_transformers"]

UNIT = ("snake1", "conv1", "snake2", "conv2")
RENAMED: tuple[tuple[str, str], ...] = (
    (r"^quantizer\.quantizers\.", "quantizer.levels."),
    (r"\.in_proj\.", ".project_in."),
    (r"\.out_proj\.", ".project_out."),
    (r"\.codebook\.weight$", ".quantizer.codebook"),
    (r"\.to_qkv\.", ".qkv."),
    (r"\.to_out\.", ".proj."),
)
TRANSFORMERS: tuple[tuple[str, str], ...] = (
    (r"^(encoder|decoder)\.block\.", r"\1.stages."),
    (r"\.res_unit1\.", ".units.0."),
    (r"\.res_unit2\.", ".units.1."),
    (r"\.res_unit3\.", ".units.2."),
    (r"^(encoder\.stages\.\d+)\.conv1\.", r"\1.down."),
    (r"^(decoder\.stages\.\d+)\.conv_t1\.", r"\1.up."),
    (r"^((?:encoder|decoder)(?:\.stages\.\d+)?)\.snake1\.", r"\1.snake."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.stem."),
    (r"^(encoder|decoder)\.conv2\.", r"\1.head."),
)


def convert_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of descriptinc/descript-audio-codec or hubertsiuzdak/snac under our keys.

    Tables of rotary frequencies are left out: they hold no information.
    """
    kept = {key: tensor for key, tensor in state.items() if not key.endswith(".rel_pos.inv_freq")}
    places = {"encoder.block": _places(kept, "encoder.block"), "decoder.model": _places(kept, "decoder.model")}
    first_unit = 3 if any(re.search(r"^decoder\.model\.\d+\.block\.2\.linear\.", key) for key in kept) else 2

    def ours(key: str) -> str:
        found = re.fullmatch(r"(encoder\.block|decoder\.model)\.(\d+)\.(.+)", key)
        if found is None:
            return key
        room, place, rest = found[1].partition(".")[0], places[found[1]][int(found[2])], found[3]
        if inner := re.fullmatch(r"block\.(\d+)\.(.+)", rest):
            in_stage = _in_encoder_stage if room == "encoder" else _in_decoder_stage
            rest = in_stage(int(inner[1]) - (0 if room == "encoder" else first_unit), inner[2])
        return f"{room}.{place}.{rest}"

    return _convert(kept, ours)


def convert_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `DacModel` in transformers under our keys."""
    return _convert(state, lambda key: _renamed(key, TRANSFORMERS))


def _convert(state: Mapping[str, Tensor], ours: Callable[[str], str]) -> dict[str, Tensor]:
    converted = {}
    for key, tensor in fold_weight_norm(state).items():
        key = _renamed(ours(key), RENAMED)
        converted[key] = _laid_out(key, tensor)
    return converted


def _renamed(key: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in table:
        key = re.sub(pattern, name, key)
    return key


def _laid_out(key: str, tensor: Tensor) -> Tensor:
    if key.endswith(".alpha"):
        return tensor.flatten()
    if tensor.ndim != 3:
        return tensor
    if key.endswith(".up.weight"):
        return from_transposed(tensor)
    return tensor.squeeze(-1) if key.startswith("quantizer.") else from_conv(tensor)


def _places(state: Mapping[str, Tensor], root: str) -> dict[int, str]:
    """Our name for every place of the sequence that an encoder or a decoder is."""
    held: dict[int, set[str]] = {}
    for key in state:
        if found := re.match(rf"{re.escape(root)}\.(\d+)\.(\w+)", key):
            held.setdefault(int(found[1]), set()).add(found[2])
    stages = [place for place in sorted(held) if "block" in held[place]]
    names = {}
    for place, inner in held.items():
        if place in stages:
            names[place] = f"stages.{stages.index(place)}"
        elif "alpha" in inner:
            names[place] = "snake"
        elif "to_qkv" in inner:
            names[place] = "attention"
        elif stages and place > stages[-1]:
            names[place] = "head"
        else:
            names[place] = "stem"
    fronts = [place for place in sorted(names) if names[place] == "stem"]
    return names | dict.fromkeys(fronts[:-1], "smooth")


def _in_unit(rest: str) -> str:
    number, _, name = rest.removeprefix("block.").partition(".")
    return f"{UNIT[int(number)]}.{name}"


def _in_encoder_stage(unit: int, rest: str) -> str:
    if rest.startswith("block."):
        return f"units.{unit}.{_in_unit(rest)}"
    return f"snake.{rest}" if rest == "alpha" else f"down.{rest}"


def _in_decoder_stage(unit: int, rest: str) -> str:
    if rest.startswith("block."):
        return f"units.{unit}.{_in_unit(rest)}"
    if rest.startswith("linear."):
        return f"noise.{rest}"
    return f"snake.{rest}" if rest == "alpha" else f"up.{rest}"
