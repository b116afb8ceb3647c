"""Sylber: syllables of speech as tokens, with the time that each takes (arXiv 2410.07168)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from quantizers import Quantizer
from quantizers.base import check_codebooks
from zoo.families.encode_only import EncodeOnly
from zoo.families.segments import segment, segment_means
from zoo.families.weight_norm import fold_weight_norm
from zoo.tokens import Tokens

__all__ = ["Sylber"]

FIXED = {
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "conv_bias": False,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
}
RENAMED = (
    (r"^masked_spec_embed$", "mask_vector"),
    (r"^feature_extractor\.conv_layers\.0\.layer_norm\.", "first_norm."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"convs.\1."),
    (r"^feature_projection\.layer_norm\.", "norm."),
    (r"^feature_projection\.projection\.", "project."),
    (r"^encoder\.pos_conv_embed\.conv\.", "positions."),
    (r"^encoder\.layer_norm\.", "blocks_norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.attention\.out_proj\.", ".attn.proj."),
    (r"\.feed_forward\.intermediate_dense\.", ".mlp.fc1."),
    (r"\.feed_forward\.output_dense\.", ".mlp.fc2."),
    (r"\.final_layer_norm\.", ".norm2."),
    (r"\.layer_norm\.", ".norm1."),
)


class Sylber(EncodeOnly):
    """Speech at 16 kHz to one token a syllable, about 4.3 a second; none where nobody speaks.

    Features of `encoders.HuBERTEncoder` for each 20 ms are cut into segments (`zoo.families.segments`), and a token is
    the mean of a segment's features: continuous latents with `quantizers.Identity`, codes with a k-means codebook in
    `quantizers.VQ`. `Tokens.positions` hold the frame that a segment begins with, `Tokens.durations` the frames that it
    lasts, at 50 frames a second; frames in no segment are silence or noise. How many tokens there are depends on the
    sound; there may be none.

    Args:
        encoder: `encoders.HuBERTEncoder`.
        quantizer: reads `encoder.dim` channels.
        norm_threshold: least norm of a feature that belongs to a syllable.
        merge_threshold: least cosine between a feature and the mean of the segment that takes it in.

    Raises:
        ValueError: the quantizer reads another width, or merge_threshold is no cosine.
    """

    elsewhere: ClassVar[str] = (
        "Sylber's resynthesis is another model, a flow-matching regressor of articulation with the SPARC vocoder "
        "(Berkeley-Speech-Group/sylber, package speech-articulatory-coding): give it code_latents(tokens), "
        "repeated for tokens.durations frames from tokens.positions"
    )

    def __init__(
        self, encoder: Any, quantizer: Quantizer, norm_threshold: float = 2.6, merge_threshold: float = 0.8
    ) -> None:
        super().__init__(encoder, quantizer)
        if not -1 <= merge_threshold <= 1:
            raise ValueError(f"merge_threshold is a cosine, -1 to 1; got {merge_threshold}")
        self.norm_threshold, self.merge_threshold = norm_threshold, merge_threshold
        frames = encoder.count(encoder.sample_rate)
        self.spec = replace(self.spec, num_tokens=frames, downsample=None)

    @property
    def frame_rate(self) -> float:
        """Frames a second, the unit of `Tokens.positions` and `Tokens.durations`."""
        return self.encoder.sample_rate / self.encoder.hop_length

    def encode_latents(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, 1, T) and real samples (B,) -> features (B, L, D), of the sound with mean 0 and variance 1."""
        return self.encoder(standardize(x, lengths), lengths)

    def encode(self, x: Tensor, lengths: Tensor | None = None, *, codebooks: int | None = None) -> Tokens:
        """Syllables of a batch of sounds.

        Args:
            x: (B, 1, T) float in [-1, 1], T >= 1, at 16 kHz.
            lengths: (B,) int64 real samples of each item from the front; what stands behind has no effect.
            codebooks: how many codebooks a residual quantizer uses, from the first; None for all.

        Returns:
            Tokens with latents (B, N, D) or indices (B, N, Q), positions and durations (B, N) in frames, and size in
            samples; N is that of the item with most tokens. Lengths are None where all items have N.

        Raises:
            ValueError: x does not fit `spec` or is not finite, or lengths or codebooks are out of range.
        """
        self.check_input(x, finite=True)
        option = {} if codebooks is None else {"codebooks": check_codebooks(self.quantizer, codebooks)}
        if lengths is not None:
            lengths = self.check_lengths(lengths, x)
        features = self.encode_latents(x.to(self.dtype), lengths).float()
        frames = [features.shape[1]] * len(x) if lengths is None else self.encoder.count(lengths).tolist()
        rows = [row[:count] for row, count in zip(features, frames, strict=True)]
        bounds = [self.segments(row) for row in rows]
        counts = torch.tensor([len(bound) for bound in bounds], device=x.device)
        means = pad_sequence([segment_means(row, bound) for row, bound in zip(rows, bounds, strict=True)], True)
        places = pad_sequence(bounds, True).to(x.device)
        real = torch.arange(means.shape[1], device=x.device) < counts[:, None]
        tokens = self.as_tokens(self.quantizer(means, real, **option), x)
        return replace(
            tokens,
            indices=tokens.indices.masked_fill(~real[..., None], 0),
            lengths=None if bool(real.all()) else counts,
            size=tokens.size if lengths is None else lengths[:, None],
            positions=places[..., 0],
            durations=places[..., 1] - places[..., 0],
        )

    def segments(self, features: Tensor) -> Tensor:
        """Features (L, D) of one sound -> (S, 2) int64: first frame and the one after the last of each syllable."""
        return segment(features, norm_threshold=self.norm_threshold, merge_threshold=self.merge_threshold)

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config `{hubert, norm_threshold, merge_threshold, num_hidden_layers, codebook_size}`.

        `hubert` is a `HubertConfig` of transformers as plain data. `codebook_size` is the number of k-means centroids;
        without it tokens are continuous.

        Raises:
            ValueError: a HuBERT of another architecture than the base model's.
        """
        hubert = config["hubert"]
        for name, value in FIXED.items():
            if hubert.get(name, value) != value:
                raise ValueError(f"Sylber is built on HuBERT-base with {name}={value}, the config has {hubert[name]}")
        dim, codes = int(hubert["hidden_size"]), config.get("codebook_size")
        if codes is None:
            quantizer: dict[str, Any] = {"_target_": "quantizers.Identity", "dim": dim}
        else:
            quantizer = {"_target_": "quantizers.VQ", "dim": dim, "codebook_size": int(codes)}
        return {
            "_target_": "zoo.families.Sylber",
            "norm_threshold": float(config["norm_threshold"]),
            "merge_threshold": float(config["merge_threshold"]),
            "encoder": {
                "_target_": "encoders.HuBERTEncoder",
                "dim": dim,
                "depth": int(config.get("num_hidden_layers") or hubert["num_hidden_layers"]),
                "heads": int(hubert["num_attention_heads"]),
                "hidden": int(hubert["intermediate_size"]),
                "widths": [int(width) for width in hubert["conv_dim"]],
                "kernels": [int(kernel) for kernel in hubert["conv_kernel"]],
                "strides": [int(stride) for stride in hubert["conv_stride"]],
                "position_kernel": int(hubert["num_conv_pos_embeddings"]),
                "position_groups": int(hubert["num_conv_pos_embedding_groups"]),
                "mask_share": float(hubert.get("mask_time_prob", 0.05)),
                "eps": float(hubert.get("layer_norm_eps", 1e-5)),
            },
            "quantizer": quantizer,
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of transformers' `HubertModel` -> ours; weight norm is folded.

        Blocks that are cut off must not be in the state. `centroids` (K, D), where they are, become the codebook.
        """
        converted: dict[str, Tensor] = {}
        plain = fold_weight_norm(state)
        for key, tensor in plain.items():
            if key == "centroids":
                converted["quantizer.codebook"] = tensor
            elif found := re.fullmatch(r"(encoder\.layers\.\d+)\.attention\.q_proj\.(weight|bias)", key):
                parts = [plain[f"{found[1]}.attention.{part}_proj.{found[2]}"] for part in "qkv"]
                converted[f"encoder.{our_key(found[1] + '.')}attn.qkv.{found[2]}"] = torch.cat(parts)
            elif not re.search(r"\.attention\.[kv]_proj\.", key):
                converted[f"encoder.{our_key(key)}"] = tensor
        return converted


def our_key(key: str) -> str:
    """A key of `HubertModel` that keeps its tensor -> ours, inside the encoder."""
    for pattern, ours in RENAMED:
        key = re.sub(pattern, ours, key)
    return key


def standardize(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Sounds (B, 1, T) with mean 0 and variance 1 over their real samples (B,), zeros behind; silence stays zero."""
    if lengths is None:
        mean, count = x.float().mean(-1, keepdim=True), x.new_tensor(x.shape[-1], dtype=torch.float32)
        centred = x.float() - mean
    else:
        past = (torch.arange(x.shape[-1], device=x.device) >= lengths[:, None])[:, None]
        count = lengths[:, None, None].float()
        mean = x.float().masked_fill(past, 0).sum(-1, keepdim=True) / count
        centred = (x.float() - mean).masked_fill(past, 0)
    deviation = (centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return (centred / torch.where(deviation > 1e-7, deviation, 1)).to(x.dtype)
