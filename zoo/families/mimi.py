"""Mimi: speech at 12.5 tokens a second, each of 1 semantic and up to 31 acoustic codes (arXiv 2410.00037)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.families.codec import AudioCodec
from zoo.families.seanet_reference import seanet_keys, seanet_nodes

__all__ = ["Mimi"]

FIXED = {  # what every published model is, by the option's name in either layout
    "activation": "ELU", "causal": True, "channels": 1, "disable_norm_outer_blocks": 0, "norm": ("none", "layer_norm"),
    "pad_mode": "constant", "conv_layout": True, "gating": "none", "positional_embedding": "rope",
    "use_causal_conv": True, "audio_channels": 1, "trim_right_ratio": 1.0, "hidden_act": "gelu", "norm_eps": 1e-5,
    "attention_bias": False, "model_type": "mimi",
}  # fmt: skip
STACKS = {"rvq_first": 0, "rvq_rest": 1, "semantic": 0, "acoustic": 1}
BLOCK_KEYS = (  # of a transformer layer: moshi's current and older names, then transformers'
    (r"self_attn\.(in_projs\.0\.|in_proj\.|in_proj_)weight", "attn.qkv.weight"),
    (r"self_attn\.(out_projs\.0|out_proj|o_proj)\.weight", "attn.proj.weight"),
    (r"self_attn\.([qkv])_proj\.weight", r"attn.qkv.weight.\1"),
    (r"(norm1|input_layernorm)\.(weight|bias)", r"norm1.\2"),
    (r"(norm2|post_attention_layernorm)\.(weight|bias)", r"norm2.\2"),
    (r"(linear1|mlp\.fc1)\.weight", "mlp.fc1.weight"),
    (r"(linear2|mlp\.fc2)\.weight", "mlp.fc2.weight"),
    (r"(layer_scale_1|self_attn_layer_scale)\.scale", "gamma1"),
    (r"(layer_scale_2|mlp_layer_scale)\.scale", "gamma2"),
)
SIDE = r"(?:(encoder|decoder)\.)?"  # in front of everything but the quantizer in transformers' layout
LAYER = re.compile(rf"{SIDE}(encoder|decoder)_transformer\.(?:transformer\.)?layers\.(\d+)\.(.+)")
SEANET = re.compile(rf"{SIDE}(encoder|decoder)(?:_seanet)?\.((?:model|layers)\.\d+\..+)")
RESAMPLE = re.compile(rf"{SIDE}(downsample|upsample)\.(?:conv\.|convtr\.)+weight")
BOOK = re.compile(r"quantizer\.(rvq_first|rvq_rest|semantic|acoustic).*layers\.(\d+)\._?codebook\._?(\w+)")
PROJECTION = re.compile(r"quantizer\.(rvq_first|rvq_rest|semantic|acoustic)\w*\.(in|out)put_proj\.weight")


class Mimi(AudioCodec):
    """The codec of Moshi: everything is causal, so that it streams in frames of 80 ms.

    Two quantizers read the same latents: the first level was trained to follow a speech representation, the others are
    a residual stack for the sound. `encode(x, codebooks=8)` gives Moshi's 1.1 kbit/s, all 32 codebooks 4.4 kbit/s.
    """

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of kyutai-labs/moshi, or of transformers' Mimi.

        Raises:
            ValueError: an option has a value that this family does not have.
        """
        return _from_transformers(config) if "upsampling_ratios" in config else _from_moshi(config)

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of kyutai-labs/moshi or of transformers -> ours.

        Codebooks are kept as sums and counts there: a code is their ratio. The count of training steps, which our
        codebooks keep as well, starts at 0.
        """
        ours: dict[str, Tensor] = {}
        seanet: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
        for key, value in state.items():
            if book := BOOK.fullmatch(key):
                ours |= _codebook(state, key, book)
            elif projection := PROJECTION.fullmatch(key):
                name = f"quantizer.stacks.{STACKS[projection[1]]}.project_{projection[2]}.weight"
                ours[name] = value.squeeze(-1)
            elif layer := LAYER.fullmatch(key):
                ours[f"{layer[2]}.transformer.blocks.{layer[3]}.{_block_key(layer[4])}"] = value
            elif RESAMPLE.fullmatch(key):
                ours["encoder.down.weight" if "downsample" in key else "decoder.up.weight"] = value
            elif found := SEANET.fullmatch(key):
                seanet[found[2]][found[3]] = value
            else:
                ours[key] = value
        for side, layers in seanet.items():
            ours |= {f"{side}.seanet.{key}": value for key, value in seanet_keys(layers).items()}
        return _fused(ours)


def _from_moshi(config: Mapping[str, Any]) -> dict[str, Any]:
    seanet, transformer, quantizer = config["seanet"], config["transformer"], config["quantizer"]
    for part in (seanet, transformer):
        _check_fixed(part)
    width, rate = seanet["dimension"], config["sample_rate"] / math.prod(seanet["ratios"])
    widths = [transformer["d_model"], transformer["input_dimension"], *transformer["output_dimensions"]]
    widths += [quantizer["input_dimension"], quantizer["output_dimension"]]
    if set(widths) != {width}:
        raise ValueError(f"Mimi has one width; the reference config has seanet.dimension={width} and {widths}")
    return _node(
        sample_rate=config["sample_rate"],
        stride=round(rate / config["frame_rate"]),
        seanet={
            "dim": width,
            "width": seanet["n_filters"],
            "depth": seanet["n_residual_layers"],
            "kernel": seanet["kernel_size"],
            "last_kernel": seanet["last_kernel_size"],
            "residual_kernel": seanet["residual_kernel_size"],
            "dilation_base": seanet["dilation_base"],
            "compress": seanet["compress"],
            "conv_shortcut": not seanet["true_skip"],
        },
        ratios=seanet["ratios"],
        transformer={
            "depth": transformer["num_layers"],
            "heads": transformer["num_heads"],
            "hidden": transformer["dim_feedforward"],
            "context": transformer["context"],
            "layer_scale": transformer["layer_scale"],
            "theta": float(transformer["max_period"]),
            "rotary": "pairs",
        },
        code_dim=quantizer["dimension"],
        codebook_size=quantizer["bins"],
        levels=(quantizer["n_q_semantic"], quantizer["n_q"] - quantizer["n_q_semantic"]),
    )


def _from_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    _check_fixed(config)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if config["num_key_value_heads"] != heads or config["head_dim"] * heads != width:
        raise ValueError(
            f"Mimi has as many key heads as query heads, hidden_size / heads wide; got {config['num_key_value_heads']} "
            f"and {heads} heads of {config['head_dim']} for hidden_size={width}"
        )
    if config["upsample_groups"] != width or config["codebook_dim"] != config["vector_quantization_hidden_dimension"]:
        raise ValueError("Mimi upsamples each channel on its own and projects to codebook_dim; the config does not")
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    rate = config["sampling_rate"] / math.prod(config["upsampling_ratios"])
    stated = config.get("frame_rate") or config.get("_frame_rate")
    return _node(
        sample_rate=config["sampling_rate"],
        stride=round(rate / stated) if stated else 2,
        seanet={
            "dim": width,
            "width": config["num_filters"],
            "depth": config["num_residual_layers"],
            "kernel": config["kernel_size"],
            "last_kernel": config["last_kernel_size"],
            "residual_kernel": config["residual_kernel_size"],
            "dilation_base": config["dilation_growth_rate"],
            "compress": config["compress"],
            "conv_shortcut": config["use_conv_shortcut"],
        },
        ratios=config["upsampling_ratios"],
        transformer={
            "depth": config["num_hidden_layers"],
            "heads": heads,
            "hidden": config["intermediate_size"],
            "context": config["sliding_window"],
            "layer_scale": config["layer_scale_initial_scale"],
            "theta": float(rope["rope_theta"]),
            "rotary": "halves",
        },
        code_dim=config["codebook_dim"],
        codebook_size=config["codebook_size"],
        levels=(
            config["num_semantic_quantizers"],
            config["num_quantizers"] - config["num_semantic_quantizers"],
        ),
    )


def _node(
    *,
    sample_rate: int,
    stride: int,
    seanet: dict[str, Any],
    ratios: Iterable[int],
    transformer: dict[str, Any],
    code_dim: int,
    codebook_size: int,
    levels: Iterable[int],
) -> dict[str, Any]:
    """The recipe's node; codebooks learn as Mimi's do, so that a loaded model can be trained on."""
    width = seanet["dim"]
    encoder, decoder = seanet_nodes(**seanet, ratios=list(ratios), causal=True, edges="constant", lstm=0)
    book = {
        "_target_": "quantizers.VQ",
        "dim": code_dim,
        "codebook_size": codebook_size,
        "learn": "ema",
        "commitment": 1.0,
        "kmeans_init": True,
        "dead_code_threshold": 0.1,
        "dead_code_interval": 5,
    }
    stacks = [
        {
            "_target_": "quantizers.Projected",
            "dim": width,
            "bias": False,
            "quantizer": {"_target_": "quantizers.Residual", "quantizer": book, "num_quantizers": count},
        }
        for count in levels
    ]
    return {
        "_target_": "zoo.families.Mimi",
        "sample_rate": sample_rate,
        "encoder": {"_target_": "encoders.MimiEncoder", "seanet": encoder, "stride": stride, **transformer},
        "quantizer": {"_target_": "quantizers.SplitResidual", "stacks": stacks},
        "decoder": {"_target_": "decoders.MimiDecoder", "seanet": decoder, "stride": stride, **transformer},
    }


def _check_fixed(config: Mapping[str, Any]) -> None:
    for name, wanted in FIXED.items():
        choices = wanted if isinstance(wanted, tuple) else (wanted,)
        if name in config and config[name] not in choices:
            raise ValueError(f"Mimi is written for {name}={wanted!r}, the reference config has {config[name]!r}")


def _block_key(key: str) -> str:
    for pattern, ours in BLOCK_KEYS:
        if found := re.fullmatch(pattern, key):
            return found.expand(ours)
    return key


def _codebook(state: Mapping[str, Tensor], key: str, book: re.Match[str]) -> dict[str, Tensor]:
    """The entries that one of a codebook's tensors brings: `initialized`, `cluster_usage`, `embedding_sum`."""
    ours, value = f"quantizer.stacks.{STACKS[book[1]]}.quantizer.levels.{book[2]}", state[key]
    if book[3] == "initialized":
        return {f"{ours}.initialized": value.bool().squeeze(0)}
    if book[3] == "cluster_usage":
        steps = torch.zeros((), dtype=torch.int64, device=value.device)
        return {f"{ours}.cluster_size": value, f"{ours}.steps": steps}
    usage = state.get(key.replace(book[3], "cluster_usage"))
    if book[3] not in ("embedding_sum", "embed_sum") or usage is None:
        return {key: value}
    return {f"{ours}.cluster_sum": value, f"{ours}.codebook": value / usage.clamp_min(1e-5)[:, None]}


def _fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate maps to queries, keys and values put into one."""
    stems = [key.removesuffix(".q") for key in state if key.endswith("attn.qkv.weight.q")]
    for stem in stems:
        parts = [state.pop(f"{stem}.{name}", None) for name in "qkv"]
        present = [part for part in parts if part is not None]
        if len(present) != len(parts):
            raise ValueError(f"{stem}: the maps to keys and values are missing beside that to queries")
        state[stem] = torch.cat(present)
    return state
