"""WavTokenizer: sound as one stream of 40 or 75 tokens a second (arXiv 2408.16532)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantizers import Quantizer
from zoo.families.codec import AudioCodec
from zoo.families.seanet_reference import codebook_keys, seanet_keys
from zoo.families.vocos_reference import backbone_node, decoder_key, head_node, of_decoder, stored, under
from zoo.families.weight_norm import fold_weight_norm

__all__ = ["WavTokenizer"]

DIM, WIDTH = 512, 32  # of the encoder, where the config does not say
ENCODEC = "feature_extractor.encodec."
UNUSED = f"{ENCODEC}decoder."
FUSED = re.compile(r"backbone\.pos_net\.2\.([qkv])\.(weight|bias)")


class WavTokenizer(AudioCodec):
    """`encoders.SEANetEncoder`, one codebook, and a `decoders.VocosDecoder` with attention, as published.

    The attention and the group norms of the decoder reach over the whole sound. So a batch of different lengths is
    masked, and decodes as its items alone; a long sound decoded in pieces differs from the whole. Other encoders of
    one token a hop do as well, and without attention the decoder is local, as in the recipe `wavtokenizer_tiny`.

    The norms of the decoder have four conditions, left over from codecs of several bitrates. The reference trains all
    of them for the one there is, by drawing one for each batch, and so does this family where `bandwidth_id` is None.

    Args:
        encoder, quantizer, decoder, sample_rate: as of `AudioCodec`; the decoder is a `decoders.VocosDecoder`.

    Attributes:
        bandwidth_id: the decoder's condition; None for 0, while training for a random one.
    """

    def __init__(self, encoder: Any, quantizer: Quantizer, decoder: Any, sample_rate: int) -> None:
        super().__init__(encoder, quantizer, decoder, sample_rate)
        self.bandwidth_id: int | None = None

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """Latents (B, N, D) and real lengths (B,) in tokens -> (B, C, *size)."""
        condition = self.bandwidth_id or 0
        if self.bandwidth_id is None and self.training and self.decoder.conditions > 1:
            condition = int(torch.randint(self.decoder.conditions, ()))
        return self.decoder(latents, lengths, condition)[..., : size[0]]

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of jishengpeng/WavTokenizer.

        Args:
            config: the published YAML, `{sample_rate, feature_extractor: {init_args}, backbone, head}`; or its values
                side by side, `{sample_rate, downsamples, dimension, n_filters, vq_bins, vq_kmeans, dim, ...}`.

        Raises:
            ValueError: more than one codebook, which the reference does not implement as residual ones.
        """
        flat = dict(config) if "downsamples" in config else _flat(config)
        if flat.get("num_quantizers", 1) != 1:
            raise ValueError(f"WavTokenizer has one codebook, the config has num_quantizers={flat['num_quantizers']}")
        dim = int(flat.get("dimension", DIM))
        return {
            "_target_": "zoo.families.WavTokenizer",
            "sample_rate": int(flat["sample_rate"]),
            "encoder": {
                "_target_": "encoders.SEANetEncoder",
                "dim": dim,
                "width": int(flat.get("n_filters", WIDTH)),
                "strides": [int(ratio) for ratio in reversed(flat["downsamples"])],
                "causal": False,
            },
            "quantizer": {
                "_target_": "quantizers.VQ",
                "dim": dim,
                "codebook_size": int(flat["vq_bins"]),
                "learn": "ema",
                "commitment": 1.0,
                "kmeans_init": True,
                "kmeans_iterations": int(flat.get("vq_kmeans", 200)),
            },
            "decoder": {
                "_target_": "decoders.VocosDecoder",
                "backbone": backbone_node("VocosBackbone", {**flat, "input_channels": dim}) | {"attention": True},
                "head": head_node("ISTFTHead", flat),
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the reference, or of its training checkpoints -> ours.

        Left out are discriminators and losses, the SEANet decoder, which is stored and never used, and the window.
        """
        state = fold_weight_norm({key: state[key] for key in state if stored(key) and not key.startswith(UNUSED)})
        converted: dict[str, Tensor] = {}
        for key, tensor in state.items():
            if of_decoder(key) and not FUSED.fullmatch(key):
                ours, tensor = decoder_key(key, tensor)
                converted[ours] = tensor
            elif not of_decoder(key) and not key.startswith(ENCODEC):
                converted[key] = tensor
        for key, tensor in codebook_keys(under(f"{ENCODEC}quantizer.", state)).items():
            converted[f"quantizer.{key.removeprefix('levels.0.')}"] = tensor
        for key, tensor in seanet_keys(under(f"{ENCODEC}encoder.", state)).items():
            converted[f"encoder.{key}"] = tensor
        return converted | _fused(state)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the published YAML side by side."""
    feature, backbone, head = (dict(config[part]["init_args"]) for part in ("feature_extractor", "backbone", "head"))
    flat = {**head, **backbone, **feature, "sample_rate": config["sample_rate"], "downsamples": feature["dowmsamples"]}
    if (dim := int(backbone["input_channels"])) != DIM:
        raise ValueError(f"WavTokenizer's encoder gives {DIM} channels, backbone.input_channels is {dim}")
    return flat


def _fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of the attention as one linear map."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if found := FUSED.fullmatch(key):
            parts.setdefault(found[2], {})[found[1]] = tensor.flatten(1) if tensor.ndim == 3 else tensor
    stem = "decoder.backbone.position_net.blocks.2.qkv"
    return {f"{stem}.{part}": torch.cat([found[name] for name in "qkv"]) for part, found in parts.items()}
