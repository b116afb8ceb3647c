"""DAC: residual vector quantization of full-band sound (Descript Audio Codec, arXiv 2306.06546)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from zoo.families.codec import AudioCodec
from zoo.families.dac_keys import convert_original, convert_transformers

__all__ = ["DAC"]

COMMITMENT, CODEBOOK = 0.25, 1.0


class DAC(AudioCodec):
    """`encoders.DACEncoder`, `quantizers.Residual` over projected `quantizers.VQ`, `decoders.DACDecoder`.

    A sound gets zeros behind, up to whole hops, and comes back at its own length. Published models at 16 and 24 kHz
    compute 8 samples less than that where the length is a multiple of the hop or nearly so: see
    `decoders.DACDecoder`. Encoder and decoder are local (`context`), so that chunks that overlap by it join without a
    seam.
    """

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for the arguments of `dac.DAC` (its files keep them under `metadata`), or for a `DacConfig`.

        Raises:
            ValueError: the rates of encoder and decoder differ.
        """
        if "downsampling_ratios" in config:
            config = _from_transformers(config)
        width, rates = int(config["encoder_dim"]), [int(rate) for rate in config["encoder_rates"]]
        dim = config.get("latent_dim") or width * 2 ** len(rates)
        decoder_rates = [int(rate) for rate in config["decoder_rates"]]
        if math.prod(rates) != math.prod(decoder_rates):
            raise ValueError(f"DAC goes down by {rates} and up by {decoder_rates}; their products must be equal")
        return {
            "_target_": "zoo.families.DAC",
            "sample_rate": int(config["sample_rate"]),
            "encoder": {"_target_": "encoders.DACEncoder", "dim": dim, "width": width, "strides": rates},
            "quantizer": {
                "_target_": "quantizers.Residual",
                "quantizer": _levels(config, dim),
                "gradient": "chained",
                "reduce": "sum",
                "quantize_dropout": float(config.get("quantizer_dropout", 0.0)),
                **_count(config),
            },
            "decoder": {
                "_target_": "decoders.DACDecoder",
                "dim": dim,
                "width": int(config["decoder_dim"]),
                "strides": decoder_rates,
                "short": True,
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original repository or of transformers -> ours; weight norm is folded."""
        known = any(key.startswith("encoder.conv1.") for key in state)
        return convert_transformers(state) if known else convert_original(state)


def _from_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    rates = list(config["downsampling_ratios"])
    return {
        **{name: config[name] for name in ("n_codebooks", "codebook_size", "codebook_dim")},
        "quantizer_dropout": config.get("quantizer_dropout", 0.0),
        "commitment": config.get("commitment_loss_weight", COMMITMENT),
        "codebook": config.get("codebook_loss_weight", CODEBOOK),
        "sample_rate": config["sampling_rate"],
        "encoder_dim": config["encoder_hidden_size"],
        "encoder_rates": rates,
        "latent_dim": config.get("hidden_size"),
        "decoder_dim": config["decoder_hidden_size"],
        "decoder_rates": config.get("upsampling_ratios") or rates[::-1],
    }


def _count(config: Mapping[str, Any]) -> dict[str, int]:
    return {} if isinstance(config["codebook_dim"], Sequence) else {"num_quantizers": int(config["n_codebooks"])}


def _levels(config: Mapping[str, Any], dim: int) -> dict[str, Any] | list[dict[str, Any]]:
    """One level to be copied, or all of them where each has a width of its own."""
    widths = config["codebook_dim"]
    if isinstance(widths, Sequence):
        return [_level(config, dim, int(width)) for width in widths]
    return _level(config, dim, int(widths))


def _level(config: Mapping[str, Any], dim: int, width: int) -> dict[str, Any]:
    return {
        "_target_": "quantizers.Projected",
        "dim": dim,
        "quantizer": {
            "_target_": "quantizers.VQ",
            "dim": width,
            "codebook_size": int(config["codebook_size"]),
            "metric": "cosine",
            "commitment": float(config.get("commitment", COMMITMENT)),
            "codebook_loss": float(config.get("codebook", CODEBOOK)),
        },
    }
