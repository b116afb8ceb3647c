"""ResTok: a 1D code in levels, each of which holds what the coarser ones left (arXiv 2601.03955)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decoders import ResTokDecoder
from encoders import ResTokEncoder
from encoders.layers.levels import halving_levels
from quantizers import Quantizer
from zoo.families.dropout import NestedDropout, visible
from zoo.families.maskgit_vqgan import convolution_key, pixel_arguments
from zoo.families.sequence import sequence_spec
from zoo.families.titok import transformer_arguments, vq_node
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["ResTok"]

SIZES = {
    "small": {"width": 512, "num_layers": 6, "num_heads": 8},
    "base": {"width": 768, "num_layers": 12, "num_heads": 12},
    "large": {"width": 1024, "num_layers": 24, "num_heads": 16},
}
PIXELS = {"channel_mult": [1, 1, 2, 2, 4], "hidden_channels": 128, "num_res_blocks": 2, "z_channels": 256}
PATCH = 16  # of the reference's patch embedding, whatever its config says
TRAINING_ONLY = ("vf_proj.weight", "vf_proj_dec.weight", "decoder.feat_mask_token")
RENAMED = (
    (r"\.gamma_([12])$", r".gamma\1"),
    (r"^ln_(pre|post)\.", r"norm_\1."),
    (r"^latent_token_level_embedding$", "latent_level_embedding"),
    (r"^patch_embed\.(proj\.)?", "patch_embedding."),
    (r"^decoder_embed\.", "latent_embedding.maps."),
    (r"^conv_out\.", "proj.maps."),
    (r"^ffn\.", "head."),
)


class ResTok(Tokenizer):
    """A ViT encoder that merges image tokens in stages, any quantizer, and a ViT decoder with a convolutional stage.

    The code comes in levels (`spec.scales`) and any prefix decodes. Features on offer (`expose`): "encoder.global" (B,
    W), which training aligns with the class token of a vision model, "encoder.merged", "encoder.image" and
    "encoder.image_sum" (B, W, h, w); and "decoder.patches" (B, W, h, w), aligned with its patches, where the decoder
    has a `feature_token`.

    Args:
        encoder: N tokens, `quantizer.dim` wide (twice that in front of `quantizers.KL`).
        quantizer: any.
        decoder: reads N tokens in the same levels, `quantizer.dim` wide.
        dropout: how many tokens training keeps; None for all.

    Raises:
        ValueError: grids, levels or widths of the parts differ.
    """

    encoder: ResTokEncoder
    quantizer: Quantizer
    decoder: ResTokDecoder

    def __init__(
        self,
        encoder: ResTokEncoder,
        quantizer: Quantizer,
        decoder: ResTokDecoder,
        dropout: NestedDropout | None = None,
    ) -> None:
        super().__init__(encoder, quantizer, decoder)
        self.dropout = dropout
        if (encoder.grid, encoder.levels) != (decoder.grid, decoder.levels):
            raise ValueError(
                f"the encoder has {encoder.grid} x {encoder.grid} patches and levels {encoder.levels}, "
                f"the decoder {decoder.grid} x {decoder.grid} and {decoder.levels}"
            )
        self.check_widths()
        self.spec = sequence_spec(encoder, quantizer, scales=encoder.scales)

    @property
    def features(self) -> dict[str, int]:
        """Image tokens of the encoder and, where it has feature queries, patches of the decoder."""
        parts: dict[str, ResTokEncoder | ResTokDecoder] = {"encoder": self.encoder, "decoder": self.decoder}
        return {f"{side}.{name}": width for side, part in parts.items() for name, width in part.features.items()}

    def regularize(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Draw how many tokens each item keeps: latents (B, N, D) as they are, and lengths (B,) or None."""
        return latents, None if self.dropout is None else self.dropout.draw(len(latents), latents.shape[1])

    def forward(self, x: Tensor) -> Reconstruction:
        """As `Tokenizer.forward`, with the features that were asked for (`expose`) in `extras`."""
        self.check_input(x)
        extras: dict[str, Tensor] = {}
        quantized = self.quantizer(self.encoder(x, self.watch("encoder", extras)))
        latents, lengths = self.regularize(quantized.latents) if self.training else (quantized.latents, None)
        lengths = None if lengths is None else lengths.to(x.device, non_blocking=True)
        output = self.decoder(latents, lengths, self.watch("decoder", extras))
        return Reconstruction(output, quantized, lengths, extras)

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """(B, n, D) -> (B, 3, H, W)."""
        return self.decoder(*visible(latents, lengths))

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of Kwai-Kolors/ResTok, in its inference layout (without feature queries).

        Read are `model.vq_model`, `dataset.preprocessing.crop_size` and, for models of other sizes, `tiny_sizes` (rows
        for the table of transformer sizes) and `tiny_pixel` (the convolutions).

        Raises:
            ValueError: an unknown size, or a switch that the published model and its variants do not use.
        """
        model = config["model"]["vq_model"]
        check_switches(model)
        convolved, residual = bool(model.get("vae_encoder", False)), bool(model.get("residual_latent_tokens", True))
        pixels = pixel_arguments(config.get("tiny_pixel", PIXELS))
        sizes = {**config, "tiny_sizes": {**SIZES, **config.get("tiny_sizes", {})}}
        shared = {
            "image_size": int(config["dataset"]["preprocessing"]["crop_size"]),
            "levels": [list(level) for level in halving_levels(int(model["num_latent_tokens"]))],
            "dim": int(model["token_size"]),
            "level_heads": bool(model.get("multi_quant", True)),
            "theta": float(model.get("rope_base_len", 10000)),
        }
        encoder = {
            "_target_": "encoders.ResTokEncoder",
            **shared,
            **transformer_arguments(sizes, "enc"),
            "pixels": {"_target_": "encoders.MaskGITEncoder", **pixels} if convolved else None,
            "pooling": "residual" if model.get("latent_hierarchy", True) else "sequence",
            "stages": max(1, int(model.get("hierarchy_stages", 4))) if model.get("merge_tokens", False) else 1,
            "merge": round(1 / (1 - float(model.get("reduction_ratio", 0.5)))),
            "residual_images": bool(model.get("residual_image_tokens", True)),
            "legacy_reshape": True,
        }
        if not convolved:
            encoder["patch_size"] = PATCH
        learned = bool(model.get("learnable_dec_image_tokens", True))
        return {
            "_target_": "zoo.families.ResTok",
            "encoder": encoder,
            "quantizer": vq_node(model) | {"entropy": float(model.get("entropy_loss_ratio", 0.0))},
            "decoder": {
                "_target_": "decoders.ResTokDecoder",
                **shared,
                **transformer_arguments(sizes, "dec"),
                "pixels": {"_target_": "decoders.MaskGITDecoder", **pixels},
                "queries": "learned" if learned else "sum" if residual else "mean",
            },
            "dropout": dropout_node(model),
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of Kwai-Kolors/ResTok -> ours.

        A leading `_orig_mod.` is removed. What only training reads is left out: the projections to the vision model
        (`vf_proj`, `vf_proj_dec`), that model (`foundation_model`), and the query for it (`decoder.feat_mask_token`).
        """
        converted: dict[str, Tensor] = {}
        rows: dict[str, dict[int, Tensor]] = {}
        for name, tensor in state.items():
            key = name.removeprefix("_orig_mod.")
            room, _, rest = key.partition(".")
            if key in TRAINING_ONLY or room == "foundation_model":
                continue
            if key == "quantize.embedding.weight":
                converted["quantizer.codebook"] = tensor
            elif room in ("pixel_encoder", "pixel_decoder"):
                converted[f"{room.removeprefix('pixel_')}.pixels.{convolution_key(rest)}"] = tensor
            elif match := re.fullmatch(r"((?:latent_token_)?level_embedding)\.(\d+)", rest):
                rows.setdefault(f"{room}.{renamed(match[1])}", {})[int(match[2])] = tensor
            elif room in ("encoder", "decoder"):
                converted[f"{room}.{renamed(rest)}"] = flat(rest, tensor)
            else:
                converted[key] = tensor
        tables = {key: torch.cat([row for _, row in sorted(table.items())]) for key, table in rows.items()}
        return converted | tables


def check_switches(model: Mapping[str, Any]) -> None:
    """Raise ValueError for a config that no published variant of ResTok has."""
    ratio = float(model.get("reduction_ratio", 0.5))
    merge = 1 / (1 - ratio) if 0 < ratio < 1 else 0.0
    hierarchy, residual = model.get("latent_hierarchy", True), model.get("residual_latent_tokens", True)
    refused = {
        "learnable_latent_tokens=True does not run in the reference either (NameError)": model.get(
            "learnable_latent_tokens", False
        ),
        "is_legacy=False predicts pixels without the pixel decoder": not model.get("is_legacy", True),
        f"reduction_ratio={ratio} merges no whole number of tokens": merge < 2 or abs(merge - round(merge)) > 1e-6,
        "latent_hierarchy=True needs residual_latent_tokens=True": hierarchy and not residual,
        "drop_latent_tokens=True needs drop_prob above 0; the reference draws a wrong number of lengths without it": (
            model.get("drop_latent_tokens", False) and not model.get("drop_prob", 0.2) > 0
        ),
    }
    for reason, found in refused.items():
        if found:
            raise ValueError(f"ResTok cannot build this reference config: {reason}")


def dropout_node(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Nested dropout over halves of the code, finer ones more often; None where the config trains without."""
    if not model.get("drop_latent_tokens", False):
        return None
    count, least = int(model["num_latent_tokens"]), int(model["num_min_tokens"])
    lengths = [2**power for power in range(count.bit_length() - 1) if 2**power >= least]
    return {
        "_target_": "zoo.families.NestedDropout",
        "schedule": "choices",
        "choices": lengths,
        "weights": [2**number for number in range(len(lengths))],
        "full_probability": 1 - 1 / int(1 / float(model.get("drop_prob", 0.2))),
    }


def renamed(key: str) -> str:
    """A key inside the reference's encoder or decoder -> ours, but for lists of maps that hold a single one."""
    key = re.sub(r"^(conv_out|decoder_embed)\.(weight|bias)$", r"\1.0.\2", key)
    for pattern, ours in RENAMED:
        key = re.sub(pattern, ours, key)
    return key


def flat(key: str, tensor: Tensor) -> Tensor:
    """Convolutions that are linear maps become matrices, and single tokens rows."""
    if key.endswith("mask_token"):
        return tensor.reshape(1, -1)
    return tensor.flatten(1) if tensor.ndim == 4 else tensor
