"""Published SEANet codecs in our terms: their settings and keys, in the original layout and in that of transformers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["codebook_keys", "ema_codebook", "seanet_codec_keys", "seanet_keys", "seanet_nodes"]

LAYER = re.compile(r"(?:model|layers)\.(\d+)\.(.+)")
BLOCK = {
    "block.0": "activation1",
    "block.1": "conv1",
    "block.2": "activation2",
    "block.3": "conv2",
    "shortcut": "shortcut",
}
BUFFERS = {"embed": "codebook", "embed_avg": "cluster_sum", "cluster_size": "cluster_size", "inited": "initialized"}
CODEBOOK = re.compile(r"(?:vq\.)?layers\.(\d+)\._?codebook\.(\w+)")


def seanet_nodes(
    *, dim: int, width: int, ratios: list[int], bidirectional: bool = False, **shared: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nodes of the encoder and of the decoder.

    Args:
        dim, width: of the latents, and of the layer next to the sound.
        ratios: strides of the decoder; the encoder has them the other way round.
        bidirectional: of the encoder's LSTM.
        shared: what else both take.
    """
    parts = {"dim": dim, "width": width, **shared}
    both_ways = {"bidirectional": True} if bidirectional else {}
    return (
        {"_target_": "encoders.SEANetEncoder", **parts, "strides": ratios[::-1], **both_ways},
        {"_target_": "decoders.SEANetDecoder", **parts, "strides": ratios},
    )


def ema_codebook(dim: int, size: int, levels: int, kmeans_iterations: int = 50) -> dict[str, Any]:
    """Node of the residual codebooks of EnCodec, with the buffers that its files hold."""
    return {
        "_target_": "quantizers.Residual",
        "num_quantizers": levels,
        "quantizer": {
            "_target_": "quantizers.VQ",
            "dim": dim,
            "codebook_size": size,
            "learn": "ema",
            "commitment": 1.0,
            "decay": 0.99,
            "kmeans_init": True,
            "kmeans_iterations": kmeans_iterations,
        },
    }


def seanet_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a published encoder or decoder, weight norm folded, under the keys of ours.

    The files number the layers of one sequence, `model.N` or `layers.N`; what a layer is tells its kind and its place:
    the first and the last convolution are stem and head, those between end (or, in a decoder, begin) the stages.
    """
    layers: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.items():
        found = LAYER.fullmatch(key)
        if found is None:
            raise ValueError(f"{key} is no layer of a published SEANet")
        layers[int(found[1])][found[2]] = tensor
    kinds = {number: _kind(layer) for number, layer in sorted(layers.items())}
    convolutions = [number for number, kind in kinds.items() if kind == "conv"]
    decoder = kinds[next(number for number in kinds if number > convolutions[0])] == "lstm" or not any(
        kind == "block" and number < convolutions[1] for number, kind in kinds.items()
    )
    owners = {convolutions[0]: "stem", convolutions[-1]: "head"}
    owners |= {
        number: f"stages.{stage}.{'up' if decoder else 'down'}" for stage, number in enumerate(convolutions[1:-1])
    }
    converted: dict[str, Tensor] = {}
    stage, block = -1 if decoder else 0, 0
    for number, kind in kinds.items():
        if kind == "conv":
            names = {name: f"{owners[number]}.{_plain(name)}" for name in layers[number]}
            if number not in (convolutions[0], convolutions[-1]):
                stage, block = stage + 1, 0
        elif kind == "block":
            names = {name: f"stages.{stage}.blocks.{block}.{_in_block(name)}" for name in layers[number]}
            block += 1
        elif kind == "lstm":
            names = {name: name for name in layers[number]}
        else:
            owner = owners[min(later for later in convolutions if later > number)].rpartition(".")[0]
            names = {name: f"{owner}.activation.{name}".removeprefix(".") for name in layers[number]}
        for name, ours in names.items():
            tensor = layers[number][name]
            converted[ours] = tensor.flatten() if ours.endswith("alpha") else tensor
    return converted


def seanet_codec_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole codec, `encoder.*`, `quantizer.*` and `decoder.*`, under our keys; other tensors pass through."""
    rooms: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.items():
        room, _, rest = key.partition(".")
        if room in ("encoder", "quantizer", "decoder"):
            rooms[room][rest] = tensor
    converted = {key: tensor for key, tensor in state.items() if key.partition(".")[0] not in rooms}
    for room in ("encoder", "decoder"):
        converted |= {f"{room}.{key}": tensor for key, tensor in seanet_keys(rooms[room]).items()}
    return converted | codebook_keys(rooms["quantizer"], "quantizer.")


def codebook_keys(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Buffers of EnCodec's residual codebooks under the keys of `quantizers.Residual` of `quantizers.VQ`.

    Args:
        state: by keys `vq.layers.N._codebook.*` or, in transformers, `layers.N.codebook.*`.
        prefix: put before our keys.
    """
    converted = {}
    for key, tensor in state.items():
        found = CODEBOOK.fullmatch(key)
        if found is None or found[2] not in BUFFERS:
            raise ValueError(f"{key} is no buffer of a published residual codebook")
        started = found[2] == "inited"
        converted[f"{prefix}levels.{found[1]}.{BUFFERS[found[2]]}"] = tensor.bool().reshape(()) if started else tensor
    return converted


def _kind(layer: Mapping[str, Tensor]) -> str:
    name = next(iter(layer))
    if name.startswith(("block.", "shortcut.")):
        return "block"
    return "lstm" if name.startswith("lstm.") else "activation" if name == "alpha" else "conv"


def _plain(name: str) -> str:
    """Without the modules that the references wrap around a convolution."""
    return re.sub(r"^(?:conv\.|convtr\.)+", "", name)


def _in_block(name: str) -> str:
    place = next(place for place in BLOCK if name.startswith(f"{place}."))
    return f"{BLOCK[place]}.{_plain(name.removeprefix(f'{place}.'))}"
