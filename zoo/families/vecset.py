"""3DShape2VecSet and VecSetX: a shape as a set of latents that any point in space can read (arXiv 2301.11445)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decoders import VecSetDecoder
from encoders import VecSetEncoder
from quantizers import Quantizer
from zoo.families.shape import Placement, ShapeTokenizer

__all__ = ["VecSet"]

KL_WEIGHT = 1e-3  # on the mean over latents and channels, where quantizers.KL sums
BOTTLENECKS = ("Bottleneck", "KLBottleneck", "NormalizedBottleneck")

KEYS = {
    r"^point_embed\.mlp\.": "encoder.embed.",
    r"^latents\.weight$": "encoder.queries",
    r"^cross_attend_blocks\.0\.(norm|norm_context)\.": r"encoder.read.\1.",
    r"^cross_attend_blocks\.0\.fn\.to_q\.": "encoder.read.attn.query.",
    r"^cross_attend_blocks\.0\.fn\.to_kv\.": "encoder.read.attn.key_value.",
    r"^cross_attend_blocks\.0\.fn\.to_out\.": "encoder.read.attn.proj.",
    r"^cross_attend_blocks\.1\.norm\.": "encoder.read.norm_mlp.",
    r"^cross_attend_blocks\.1\.fn\.net\.0\.": "encoder.read.mlp.fc1.",
    r"^cross_attend_blocks\.1\.fn\.net\.2\.": "encoder.read.mlp.fc2.",
    r"^layers\.(\d+)\.0\.norm\.": r"decoder.blocks.\1.norm1.",
    r"^layers\.(\d+)\.0\.fn\.to_out\.": r"decoder.blocks.\1.attn.proj.",
    r"^layers\.(\d+)\.0\.fn\.to_(q|kv)\.": r"decoder.blocks.\1.attn.to_\2.",
    r"^layers\.(\d+)\.1\.norm\.": r"decoder.blocks.\1.norm2.",
    r"^layers\.(\d+)\.1\.fn\.net\.0\.": r"decoder.blocks.\1.mlp.fc1.",
    r"^layers\.(\d+)\.1\.fn\.net\.2\.": r"decoder.blocks.\1.mlp.fc2.",
    r"^decoder_cross_attn\.(norm|norm_context)\.": r"decoder.reader.\1.",
    r"^decoder_cross_attn\.fn\.to_q\.": "decoder.reader.attn.query.",
    r"^decoder_cross_attn\.fn\.to_kv\.": "decoder.reader.attn.key_value.",
    r"^decoder_cross_attn\.fn\.to_out\.": "decoder.reader.attn.proj.",
    r"^to_outputs\.0\.": "decoder.reader.norm_output.",
    r"^to_outputs\.(1\.)?": "decoder.reader.head.",
    r"^(bottleneck\.)?(mean_fc|logvar_fc)\.": r"encoder.\2.",
    r"^(bottleneck\.)?proj\.": "decoder.proj.",
    r"^bottleneck\.pre_bottleneck_proj\.": "encoder.proj.",
    r"^bottleneck\.post_bottleneck_proj\.": "decoder.proj.",
    r"^bottleneck\.gamma$": "decoder.affine.gain",
    r"^bottleneck\.beta$": "decoder.affine.bias",
}
FUSED = {  # ours: the reference's, one under the other
    "attn.qkv.weight": ("attn.to_q.weight", "attn.to_kv.weight"),
    "encoder.proj.weight": ("encoder.mean_fc.weight", "encoder.logvar_fc.weight"),
    "encoder.proj.bias": ("encoder.mean_fc.bias", "encoder.logvar_fc.bias"),
}


class VecSet(ShapeTokenizer):
    """Latents read a cloud of 3D points, mix among themselves, and are read by points in space.

    3DShape2VecSet gives the logit of being inside; shapes fill [-1, 1]^3. VecSetX (`signed_distance`) gives signed
    distances, negative inside; shapes fill the unit sphere. A `Field` is positive inside for both.

    Farthest point sampling starts at a cloud's first point, so that a code is a function of the cloud. The reference
    starts at a random point, and its latents differ from call to call. With learned queries the order of the points has
    no meaning at all.

    Args:
        encoder, quantizer, decoder: Gaussian latents with `quantizers.KL`, none with `quantizers.Identity`, codes with
            any other.
        signed_distance: whether the decoder's values are signed distances.
        num_points, placement, bounds, resolution: see `ShapeTokenizer`.

    Raises:
        ValueError: parts that do not fit each other.
    """

    encoder: VecSetEncoder
    decoder: VecSetDecoder

    def __init__(
        self,
        encoder: VecSetEncoder,
        quantizer: Quantizer,
        decoder: VecSetDecoder,
        num_points: int = 2048,
        signed_distance: bool = False,
        placement: Placement | None = None,
        bounds: float | None = None,
        resolution: int = 64,
    ) -> None:
        super().__init__(encoder, quantizer, decoder, num_points, placement, bounds, resolution)
        widths = encoder.embed.out_features, decoder.reader.head.in_features
        if widths[0] != widths[1]:
            raise ValueError(
                f"VecSet embeds points once for both parts, got encoder.width={widths[0]}, decoder.width={widths[1]}"
            )
        self.signed_distance = signed_distance

    def decode_latents(self, latents: Tensor, lengths: Tensor | None = None, size: tuple[int, ...] = ()) -> Any:
        """Latents (B, N, D) -> what the decoder's `query` reads."""
        return self.decoder(latents, self.encoder.embed, self.encoder.queries)

    def query(self, state: Any, queries: Tensor) -> Tensor:
        """Values (B, Q) at points (B, Q, 3), positive inside."""
        values = self.decoder.query(state, self.encoder.fourier(queries))
        return -values if self.signed_distance else values

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of 1zb/3DShape2VecSet (AE and KL) or of 1zb/VecSetX (with "query_type").

        Raises:
            ValueError: a bottleneck that we do not know, tied layers, a decoder MLP, or more outputs than one.
        """
        for name, plain in {"output_dim": 1, "weight_tie_layers": False, "decoder_ff": False}.items():
            if config.get(name, plain) != plain:
                raise ValueError(f"VecSet supports {name}={plain}, the config has {config[name]}")
        extended = "query_type" in config
        width, count, head_dim = (int(config[name]) for name in ("dim", "num_latents", "dim_head"))
        heads = width // head_dim if extended else int(config["heads"])
        kind = config["bottleneck"] if extended else "KLBottleneck" if "latent_dim" in config else "Bottleneck"
        if kind not in BOTTLENECKS:
            raise ValueError(f"VecSet knows {', '.join(BOTTLENECKS)}, the config has {kind}")
        narrow = config["bottleneck_args"] if extended else config
        dim = width if kind == "Bottleneck" else int(narrow["latent_dim"])
        normalize, gaussian = kind == "NormalizedBottleneck", kind == "KLBottleneck"
        quantizer = {"_target_": "quantizers.Identity", "dim": dim}
        if gaussian:
            quantizer = {"_target_": "quantizers.KL", "dim": dim, "weight": KL_WEIGHT / (count * dim)}
        shared = {"width": width, "project": kind != "Bottleneck", "norm_context": not extended}
        encoder = {
            "_target_": "encoders.VecSetEncoder",
            "dim": 2 * dim if gaussian else dim,
            "num_tokens": count,
            "heads": heads if extended else 1,
            "queries": "learned" if config.get("query_type") == "learnable" else "points",
            "normalize": normalize,
            **shared,
        }
        decoder = {
            "_target_": "decoders.VecSetDecoder",
            "dim": dim,
            "depth": int(config["depth"]),
            "heads": heads,
            "head_dim": head_dim,
            "read_heads": heads if extended else 1,
            "affine": normalize,
            "norm_output": extended,
            "drop_path": 0.0 if extended else 0.1,
            **shared,
        }
        placement = {"_target_": "zoo.families.Placement", "kind": "sphere" if extended else "box", "extent": 1.0}
        return {
            "_target_": "zoo.families.VecSet",
            "num_points": int(config["num_inputs"]),
            "signed_distance": extended,
            "placement": placement,
            "encoder": encoder,
            "quantizer": quantizer,
            "decoder": decoder,
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of 1zb/3DShape2VecSet and 1zb/VecSetX -> ours: projections fused, the table of frequencies left out."""
        renamed: dict[str, Tensor] = {}
        for key, tensor in state.items():
            for pattern, ours in KEYS.items():
                key, found = re.subn(pattern, ours, key)
                if found:
                    break
            renamed[key] = tensor
        renamed.pop("point_embed.basis", None)
        for whole, parts in FUSED.items():
            for key in [key for key in renamed if key.endswith(parts[0])]:
                names = [key.removesuffix(parts[0]) + part for part in parts]
                renamed[key.removesuffix(parts[0]) + whole] = torch.cat([renamed.pop(name) for name in names])
        return renamed
