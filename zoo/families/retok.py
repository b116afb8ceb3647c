"""ReTok: ordered 1D image tokens, trained with redundant ones behind them (arXiv 2601.01535)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from decoders import ReTokDecoder
from encoders import ReTokEncoder
from quantizers import Quantizer
from zoo.families.dropout import NestedDropout, visible
from zoo.families.sequence import sequence_spec
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["ReTok"]

DISTILL = "decoder.distill"
SIZES = {
    "small": {"width": 512, "num_layers": 6, "num_heads": 8},
    "base": {"width": 768, "num_layers": 12, "num_heads": 12},
}
PUBLISHED = {"image_size": 256, "base_tokens": 32, "ch": 128, "num_res_blocks": 2}
# What the published weights were trained with; the reference's other branches have no port.
SWITCHES = {
    "multi_level_query_init": True,
    "last_level_2d_query_init": False,
    "multi_level_2d_query_init": False,
    "adaptive_gn": True,
    "d2s_up": True,
    "use_attn": False,
}
LAYERS = (
    (r"transformer\.(\d+)\.", r"blocks.\1."),
    (r"\.multihead_attn\.", ".cross_attn."),
    (r"\.out_proj\.", ".proj."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"^ln_(pre|post)\.", r"norm_\1."),
    (r"^global_proj\.", "query_proj."),
    (r"^(encoder|decoder)_embed\.", "embedding."),
    (r"^distill_mlp\.", "distill."),
    (r"^conv_out\.", "head."),
    (r"^positional_embedding$", "position_embedding"),
    (r"^latent_token_positional_embedding", "latent_position_embedding"),
)
CONVOLUTIONS = (
    (r"conv_blocks\.(\d+)\.res\.", r"levels.\1."),
    (r"conv_blocks\.(\d+)\.downsample\.", r"downsamples.\1."),
    (r"conv_blocks\.(\d+)\.upsample\.conv1\.", r"upsamples.\1.conv."),
    (r"^adaptive\.", "styles."),
    (r"^mid\.", "middle."),
    (r"nin_shortcut", "shortcut"),
)
PARTS = {
    "encoder": ("encoder.convs.", CONVOLUTIONS),
    "decoder": ("decoder.convs.", CONVOLUTIONS),
    "s2to1encoder": ("encoder.", LAYERS),
    "s1to2decoder": ("decoder.", LAYERS),
    "quant_conv": ("encoder.proj.", ()),
    "post_quant_conv": ("decoder.proj.", ()),
}


class ReTok(Tokenizer):
    """A code of N tokens whose prefixes decode, and M redundant tokens that only training decodes.

    The redundant tokens are copies of the last M queries. Nested dropout draws how much of all N + M tokens the decoder
    sees, so the last of the N are seen in more than half of the draws, where they would be seen in one of N: the code
    spreads what it knows over all of them. Outside of training the redundant tokens take part in the encoder's
    self-attention and are dropped behind it: `encode` gives the N, and `decode` any prefix of them.

    Args:
        encoder: N + M latents, `quantizer.dim` wide (twice that in front of `quantizers.KL`).
        quantizer: any that works position by position.
        decoder: reads up to N + M latents, `quantizer.dim` wide.
        dropout: draws lengths out of N + M; None for each item's own, uniform in 1 to N + M.
    """

    encoder: ReTokEncoder
    quantizer: Quantizer
    decoder: ReTokDecoder

    def __init__(
        self,
        encoder: ReTokEncoder,
        quantizer: Quantizer,
        decoder: ReTokDecoder,
        dropout: NestedDropout | None = None,
    ) -> None:
        super().__init__(encoder, quantizer, decoder)
        self.dropout = dropout or NestedDropout("uniform")
        ours, theirs = (encoder.num_tokens, encoder.padding), (decoder.num_tokens, decoder.padding)
        if ours != theirs:
            raise ValueError(f"(num_tokens, padding) is {ours} in the encoder but {theirs} in the decoder")
        if encoder.image_size != decoder.image_size:
            raise ValueError(f"encoder.image_size={encoder.image_size} but decoder.image_size={decoder.image_size}")
        self.check_widths()
        self.spec = sequence_spec(encoder, quantizer)

    @property
    def features(self) -> dict[str, int]:
        """Grids after the decoder's blocks, "decoder.1", ...; "decoder.distill": that of `distill_depth`, projected."""
        blocks = {f"decoder.{name}": width for name, width in self.decoder.features.items()}
        return blocks if self.decoder.distill is None else blocks | {DISTILL: self.decoder.distill_dim}

    def regularize(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Redundant token padding: draw how many tokens of the padded code each item keeps.

        Args:
            latents: (B, N + M, D).

        Returns:
            latents (B, n, D), cut to the longest, and lengths (B,) in [1, N + M] on the CPU.
        """
        lengths = self.dropout.draw(len(latents), latents.shape[1])
        return latents[:, : int(lengths.max())], lengths

    def forward(self, x: Tensor) -> Reconstruction:
        """As `Tokenizer.forward`; while training, `quantized` holds N + M tokens and `lengths` may exceed N."""
        self.check_input(x)
        quantized = self.quantizer(self.encoder(x, redundant=self.training))
        latents, lengths = self.regularize(quantized.latents) if self.training else (quantized.latents, None)
        extras: dict[str, Tensor] = {}
        output = self.decoder(*visible(latents, lengths), watch=self._watch(extras))
        lengths = None if lengths is None else lengths.to(x.device, non_blocking=True)
        return Reconstruction(output, quantized, lengths, extras)

    def _watch(self, extras: dict[str, Tensor]) -> Callable[[str, Tensor], None] | None:
        """What puts the exposed features into `extras`; None when none is asked for."""

        def keep(name: str, features: Tensor) -> None:
            if f"decoder.{name}" in self.exposed:
                extras[f"decoder.{name}"] = features
            if DISTILL in self.exposed and name == str(self.decoder.distill_depth):
                extras[DISTILL] = self.decoder.semantic(features)

        return keep if self.exposed else None

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """(B, n, D) -> (B, 3, H, W); what no item uses is cut, and only lengths that differ cost a mask."""
        return self.decoder(*visible(latents, lengths))

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of zfu006/ReTok.

        Read are `model.init_args` (or `init_args` at the top) and, for models of other sizes, `tiny_constants`, which
        replaces what the reference has in its code: `image_size`, `base_tokens`, `ch`, `num_res_blocks`, `sizes`.

        Raises:
            ValueError: an unknown size, or a switch that no published model sets.
        """
        arguments = config["init_args"] if "init_args" in config else config["model"]["init_args"]
        for name, wanted in SWITCHES.items():
            if bool(arguments.get(name, wanted)) != wanted:
                raise ValueError(f"ReTok is ported with {name}={wanted}, as published; got {arguments[name]}")
        constants = {**PUBLISHED, **config.get("tiny_constants", {})}
        dim, num_tokens = int(arguments["codebook_embed_dim"]), int(arguments["num_latent_tokens"])
        shared = {
            "image_size": int(constants["image_size"]),
            "dim": dim,
            "num_tokens": num_tokens,
            "padding": num_tokens - int(constants["base_tokens"]),
            "features": int(arguments["z_channels"]),
            "channels": int(constants["ch"]),
        }
        blocks, distill = int(constants["num_res_blocks"]), arguments.get("distill_depth")
        return {
            "_target_": "zoo.families.ReTok",
            "encoder": {
                "_target_": "encoders.ReTokEncoder",
                **shared,
                "multipliers": [int(value) for value in arguments["encoder_ch_mult"]],
                "conv_depth": blocks,
                **transformer_size(arguments["encoder_size"], constants),
            },
            "quantizer": {
                "_target_": "quantizers.VQ",
                "dim": dim,
                "codebook_size": int(arguments["codebook_size"]),
                "normalize": bool(arguments["codebook_l2_norm"]),
                "commitment": float(arguments["commit_loss_beta"]),
                "entropy": float(arguments["entropy_loss_ratio"]),
                "estimator": "rotation" if arguments["rot"] else "straight_through",
            },
            "decoder": {
                "_target_": "decoders.ReTokDecoder",
                **shared,
                "multipliers": [int(value) for value in arguments["decoder_ch_mult"]],
                "conv_depth": blocks + 1,
                **transformer_size(arguments["decoder_size"], constants),
                "distill_depth": None if distill is None else int(distill),
                "distill_dim": int(arguments.get("out_inner_dim", 768)),
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of zfu006/ReTok -> ours.

        The positions of the N tokens and of the M redundant ones become one table on either side.
        `quantize.codebook_used`, a record of the codes that training used last, is left out.
        """
        converted: dict[str, Tensor] = {}
        for key, tensor in state.items():
            room, _, rest = key.partition(".")
            if key == "quantize.embedding.weight":
                converted["quantizer.codebook"] = tensor
            elif room in PARTS:
                prefix, renamed = PARTS[room]
                for pattern, ours in renamed:
                    rest = re.sub(pattern, ours, rest)
                converted |= {prefix + name: part for name, part in split(rest, tensor)}
            elif key != "quantize.codebook_used":
                converted[key] = tensor
        for side in ("encoder", "decoder"):
            name = f"{side}.latent_position_embedding"
            converted[name] = torch.cat([converted[name], converted.pop(f"{name}_comp")])
        return converted


def transformer_size(name: str, constants: Mapping[str, Any]) -> dict[str, int]:
    """Width, depth and heads of a size of the reference."""
    sizes = {**SIZES, **constants.get("sizes", {})}
    if name not in sizes:
        raise ValueError(f"encoder_size and decoder_size are one of {', '.join(sizes)}, got {name!r}")
    size = sizes[name]
    return {"width": int(size["width"]), "depth": int(size["num_layers"]), "heads": int(size["num_heads"])}


def split(key: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Fused projections become three, tables (L, 1, W) lose their batch axis, 1x1 convolutions become matrices."""
    if found := re.fullmatch(r"(.+)\.in_proj_(weight|bias)", key):
        names = (f"{found[1]}.{part}.{found[2]}" for part in ("query", "key", "value"))
        return list(zip(names, tensor.chunk(3), strict=True))
    if "position_embedding" in key:
        return [(key, tensor.flatten(0, 1))]
    pointwise = tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and "shortcut" not in key
    return [(key, tensor.flatten(1) if pointwise else tensor)]
