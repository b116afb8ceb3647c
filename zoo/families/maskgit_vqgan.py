"""MaskGIT-VQGAN f16: the grid tokenizer that TiTok learns from and RAR generates with (arXiv 2202.04200)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.families.grid import GridTokenizer

__all__ = ["MaskGITVQGAN"]

RENAMED = (
    (r"down\.(\d+)\.block\.", r"levels.\1."),
    (r"up\.(\d+)\.block\.", r"levels.\1."),
    (r"^mid\.", "middle."),
    (r"nin_shortcut", "shortcut"),
)


class MaskGITVQGAN(GridTokenizer):
    """The grid tokenizer of MaskGIT: `encoders.MaskGITEncoder`, `quantizers.VQ`, `decoders.MaskGITDecoder`."""

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config `{pixel: {channel_mult, hidden_channels, ...}, num_embeddings, commitment_cost}`.

        Raises:
            ValueError: not RGB.
        """
        pixel = config["pixel"]
        if pixel["num_channels"] != 3:
            raise ValueError(f"MaskGITVQGAN reads 3 channels, the config has num_channels={pixel['num_channels']}")
        convolutions = pixel_arguments(pixel)
        return {
            "_target_": "zoo.families.MaskGITVQGAN",
            "image_size": int(pixel["resolution"]),
            "encoder": {"_target_": "encoders.MaskGITEncoder", **convolutions},
            "quantizer": {
                "_target_": "quantizers.VQ",
                "dim": int(pixel["z_channels"]),
                "codebook_size": int(config["num_embeddings"]),
                "commitment": float(config.get("commitment_cost", 0.25)),
            },
            "decoder": {"_target_": "decoders.MaskGITDecoder", **convolutions},
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of `PretrainedTokenizer` (bytedance/1d-tokenizer) -> ours."""
        converted = {}
        for key, tensor in state.items():
            room, _, rest = key.partition(".")
            if key == "quantize.embedding.weight":
                converted["quantizer.codebook"] = tensor
            else:
                converted[f"{room}.{convolution_key(rest)}"] = tensor
        return converted


def pixel_arguments(pixel: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `MaskGITEncoder` and `MaskGITDecoder` for the reference's config of its convolutions."""
    return {
        "dim": int(pixel["z_channels"]),
        "channels": int(pixel["hidden_channels"]),
        "multipliers": [int(value) for value in pixel["channel_mult"]],
        "depth": int(pixel["num_res_blocks"]),
    }


def convolution_key(key: str) -> str:
    """A key inside the reference's convolutional encoder or decoder -> ours."""
    if match := re.fullmatch(r"up\.(\d+)\.upsample_conv\.(\w+)", key):
        return f"upsamples.{int(match[1]) - 1}.{match[2]}"
    for pattern, ours in RENAMED:
        key = re.sub(pattern, ours, key)
    return key
