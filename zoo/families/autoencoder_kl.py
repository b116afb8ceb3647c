"""AutoencoderKL: the continuous grid tokenizer of latent diffusion (arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.families.grid import GridTokenizer

__all__ = ["AutoencoderKL"]

ROOMS = {
    "encoder": "encoder.body",
    "quant_conv": "encoder.moments",
    "decoder": "decoder.body",
    "post_quant_conv": "decoder.latent",
}


class AutoencoderKL(GridTokenizer):
    """diffusers' `AutoencoderKL`: `encoders.KLEncoder`, `quantizers.KL`, `decoders.KLDecoder`.

    Latents are those of the network; diffusers' `scaling_factor` and `shift_factor` belong to the models that work on
    them.
    """

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a diffusers config.

        Raises:
            ValueError: block types other than the usual ones, or another activation.
        """
        channels = [int(width) for width in config["block_out_channels"]]
        kinds = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D", "act_fn": "silu"}
        for name, kind in kinds.items():
            found = config.get(name, kind)
            others = sorted({found} - {kind} if isinstance(found, str) else set(found) - {kind})
            if others:
                raise ValueError(f"AutoencoderKL supports {name} of {kind}, the config has {', '.join(others)}")
        shared = {
            "latent_channels": int(config["latent_channels"]),
            "channels": channels,
            "depth": int(config.get("layers_per_block", 1)),
            "groups": int(config.get("norm_num_groups", 32)),
            "middle_attention": bool(config.get("mid_block_add_attention", True)),
        }
        return {
            "_target_": "zoo.families.AutoencoderKL",
            "image_size": int(config.get("sample_size", 32)),
            "encoder": {
                "_target_": "encoders.KLEncoder",
                **shared,
                "moments_conv": bool(config.get("use_quant_conv", True)),
                "in_channels": int(config.get("in_channels", 3)),
            },
            "quantizer": {"_target_": "quantizers.KL", "dim": shared["latent_channels"]},
            "decoder": {
                "_target_": "decoders.KLDecoder",
                **shared,
                "latent_conv": bool(config.get("use_post_quant_conv", True)),
                "out_channels": int(config.get("out_channels", 3)),
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of diffusers -> ours."""
        converted = {}
        for key, tensor in state.items():
            room, _, rest = key.partition(".")
            converted[f"{ROOMS.get(room, room)}.{rest}"] = tensor
        return converted
