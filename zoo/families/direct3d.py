"""Direct3D's shape VAE: a point cloud to a triplane of Gaussian latents and back (arXiv 2405.14832)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from decoders import RolloutTriplane
from encoders import TriplaneEncoder
from zoo.families.shape import ShapeTokenizer

__all__ = ["Direct3D"]

PREFIXES = {
    "encoder.learnable_token": "encoder.tokens",
    "encoder.proj_in.": "encoder.points.",
    "encoder.cross_attn.": "encoder.read.",
    "encoder.self_attn.": "encoder.blocks.",
    "encoder.norm_out.": "encoder.norm.",
    "pre_latent.": "encoder.moments.",
    "post_latent.": "decoder.latent.",
    "decoder.": "decoder.body.",
    "occ_decoder.": "decoder.head.",
}
PARTS = {".to_out.": ".proj.", ".mlp.0.": ".mlp.fc1.", ".mlp.2.": ".mlp.fc2."}
READING = {".norm1_c.": ".norm_context.", ".norm1.": ".norm.", ".norm2.": ".norm_mlp."}
FUSED = {"query": ("to_q",), "key_value": ("to_k", "to_v"), "qkv": ("to_q", "to_k", "to_v")}


class Direct3D(ShapeTokenizer):
    """`encoders.TriplaneEncoder`, any quantizer (the original: `quantizers.KL`), `decoders.RolloutTriplane`.

    Tokens are the cells of three r x r planes (xy, xz, zy), plane by plane, rows along the second axis of the plane.
    Clouds hold normals. Shapes fill the cube: the reference's planes end at [-1, 1], and points beyond read zeros.

    Raises:
        ValueError: parts that do not fit each other.
    """

    encoder: TriplaneEncoder
    decoder: RolloutTriplane
    default_bounds: ClassVar[float] = 1.0

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of DreamTechAI/Direct3D's `D3D_VAE`.

        Raises:
            ValueError: an activation behind the logits.
        """
        if config.get("final_activation"):
            raise ValueError(f"Direct3D gives logits, the config has final_activation={config['final_activation']!r}")
        heads = int(config["num_attention_heads"])
        width, latent = heads * int(config["attention_head_dim"]), int(config["latent_dim"])
        resolution = int(config["triplane_res"])
        return {
            "_target_": "zoo.families.Direct3D",
            "num_points": 81920,
            "encoder": {
                "_target_": "encoders.TriplaneEncoder",
                "dim": 2 * latent,
                "resolution": resolution,
                "width": width,
                "depth": int(config["num_encoder_layers"]),
                "heads": heads,
                "bands": int(config["num_freqs"]),
            },
            "quantizer": {"_target_": "quantizers.KL", "dim": latent},
            "decoder": {
                "_target_": "decoders.RolloutTriplane",
                "dim": latent,
                "resolution": resolution,
                "width": width,
                "channels": [int(channels) for channels in config["block_out_channels"]],
                "plane_channels": int(config["triplane_dim"]),
                "depth": int(config["num_geodecoder_layers"]),
                "middle_attention": bool(config["mid_block_add_attention"]),
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of DreamTechAI/Direct3D -> ours; projections of one input are fused."""
        converted, apart = {}, dict(state)
        reading = ("query", "key_value")
        for key in state:
            module, found, _ = key.rpartition(".attn.to_q.")
            if found:
                for name in reading if "cross_attn" in module else ("qkv",):
                    parts = [apart.pop(f"{module}.attn.{part}.weight") for part in FUSED[name]]
                    converted[rename(f"{module}.attn.{name}.weight")] = torch.cat(parts)
        converted |= {rename(key): tensor for key, tensor in apart.items()}
        converted["encoder.moments.weight"] = converted["encoder.moments.weight"][:, :, 0, 0]  # a 1x1 convolution there
        return converted


def rename(key: str) -> str:
    """Our name of a tensor."""
    old, new = next(pair for pair in PREFIXES.items() if key.startswith(pair[0]))
    name = new + key.removeprefix(old)
    if name.startswith("encoder."):
        for theirs, ours in PARTS.items() | (READING.items() if new == "encoder.read." else set()):
            name = name.replace(theirs, ours)
    return name
