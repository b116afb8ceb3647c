"""Michelangelo: a shape as latents of which one may be aligned with CLIP (arXiv 2306.17115)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from einops import rearrange
from torch import Tensor

from decoders import MichelangeloDecoder
from encoders import MichelangeloEncoder
from zoo.families.shape import ShapeTokenizer

__all__ = ["Michelangelo"]

KL_WEIGHT = 1e-3  # on the mean over latents and channels, where quantizers.KL sums
SHAPE_MODEL = "model.shape_model."  # what stands before our keys in a file that holds CLIP as well

KEYS = {
    r"^encoder\.query$": "encoder.queries",
    r"^encoder\.input_proj\.": "encoder.embed.",
    r"^encoder\.ln_post\.": "encoder.norm.",
    r"^encoder\.cross_attn\.": "encoder.read.",
    r"^encoder\.self_attn\.resblocks\.": "encoder.blocks.",
    r"^pre_kl\.": "encoder.proj.",
    r"^post_kl\.": "decoder.proj.",
    r"^transformer\.resblocks\.": "decoder.blocks.",
    r"^geo_decoder\.query_proj\.": "decoder.embed.",
    r"^geo_decoder\.cross_attn_decoder\.": "decoder.read.",
    r"^geo_decoder\.ln_post\.": "decoder.norm.",
    r"^geo_decoder\.output_proj\.": "decoder.head.",
    r"\.c_qkv\.": ".qkv.",
    r"\.c_q\.": ".query.",
    r"\.c_kv\.": ".key_value.",
    r"\.attn\.c_proj\.": ".attn.proj.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
    r"\.read\.ln_1\.": ".read.norm.",
    r"\.read\.ln_2\.": ".read.norm_context.",
    r"\.read\.ln_3\.": ".read.norm_mlp.",
    r"\.ln_([12])\.": r".norm\1.",
}


class Michelangelo(ShapeTokenizer):
    """Learned queries read points with normals; a transformer and points in space read the latents.

    Published weights were searched for surfaces within 1.25 around shapes that fill [-1, 1]^3, hence the bounds.
    """

    default_bounds = 1.25

    encoder: MichelangeloEncoder
    decoder: MichelangeloDecoder

    def describe(self, x: Tensor) -> Tensor:
        """Of clouds (B, P, C) the vector (B, W) that was aligned with CLIP's through a linear map.

        Raises:
            ValueError: the encoder is not `aligned`.
        """
        if not self.encoder.aligned:
            raise ValueError("this Michelangelo is not aligned: it has no token for the whole shape")
        self.check_input(x, finite=True)
        return self.encoder.tokens(x.to(self.dtype))[:, 0]

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of NeuralCarver/Michelangelo's shape model.

        Whether a model is aligned its class says there, not its config: "aligned", true unless given, is our addition.
        `from_reference` reads it from the weights.
        """
        count, dim = int(config["num_latents"]), int(config["embed_dim"])
        shared = {
            "width": int(config["width"]),
            "heads": int(config["heads"]),
            "bands": int(config["num_freqs"]),
            "pi": bool(config["include_pi"]),
            "bias": bool(config["qkv_bias"]),
            "init_scale": float(config["init_scale"]),
        }
        return {
            "_target_": "zoo.families.Michelangelo",
            "num_points": 4096,
            "encoder": {
                "_target_": "encoders.MichelangeloEncoder",
                "dim": 2 * dim,
                "depth": int(config["num_encoder_layers"]),
                "num_tokens": count,
                "features": int(config["point_feats"]),
                "aligned": bool(config.get("aligned", True)),
                "norm_output": bool(config["use_ln_post"]),
                **shared,
            },
            "quantizer": {"_target_": "quantizers.KL", "dim": dim, "weight": KL_WEIGHT / (count * dim)},
            "decoder": {
                "_target_": "decoders.MichelangeloDecoder",
                "dim": dim,
                "depth": int(config["num_decoder_layers"]),
                **shared,
            },
        }

    @classmethod
    def from_reference(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """Build from the reference's config and weights, strictly; a file that holds CLIP as well is taken apart."""
        own = {key.removeprefix(SHAPE_MODEL): tensor for key, tensor in state.items() if key.startswith(SHAPE_MODEL)}
        own = own or dict(state)
        queries = own["encoder.query"].shape[0] if "encoder.query" in own else 0
        told = {"aligned": queries == int(config["num_latents"]) + 1, **config}
        return super().from_reference(told, {key: by_kind(key, own[key], int(config["heads"])) for key in own})

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of NeuralCarver/Michelangelo -> ours, without a change of what they hold."""
        converted = {}
        for key, tensor in state.items():
            for pattern, ours in KEYS.items():
                key = re.sub(pattern, ours, key)
            converted[key] = tensor
        return converted


def by_kind(key: str, tensor: Tensor, heads: int) -> Tensor:
    """Rows of a fused projection by kind and then head, as ours; the reference has them by head and then kind."""
    kinds = 3 if ".c_qkv." in key else 2 if ".c_kv." in key else 1
    return tensor if kinds == 1 else rearrange(tensor, "(h k d) ... -> (k h d) ...", h=heads, k=kinds)
