"""TA-TiTok: TiTok whose decoder reads a caption beside the tokens (arXiv 2501.07730)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from decoders import ViT1DDecoder
from encoders import ViT1D
from quantizers import Quantizer
from zoo.families.dropout import NestedDropout, visible
from zoo.families.text import TextConditioned, TextTower
from zoo.families.titok import TiTok
from zoo.tokenizer import Reconstruction
from zoo.tokens import Tokens

__all__ = ["TATiTok"]

CLIP_WIDTH, CLIP_LENGTH = 768, 77
USAGE = "quantize.embed_prob"
TEXT_KEYS = {
    "decoder.text_guidance_proj.weight": "decoder.text_rows.proj.weight",
    "decoder.text_guidance_proj.bias": "decoder.text_rows.proj.bias",
    "decoder.text_guidance_positional_embedding": "decoder.text_rows.position_embedding",
}


class TATiTok(TextConditioned, TiTok):
    """A single-stage TiTok whose decoder has the rows of a caption at the end of its sequence.

    What the caption says the tokens need not say. `forward` and `decode` take `text=`; `encode` takes it for the sake
    of one interface, since the encoder reads none.

    Args:
        encoder: N tokens, `quantizer.dim` wide (twice that in front of `quantizers.KL`).
        quantizer: any.
        decoder: with `text_dim`, and pixels for its output.
        text: what turns captions into features; None takes features alone.
        dropout: as in `TiTok`.

    Raises:
        ValueError: the decoder reads no text or predicts no pixels, or widths differ.
    """

    encoder: ViT1D
    decoder: ViT1DDecoder

    def __init__(
        self,
        encoder: ViT1D,
        quantizer: Quantizer,
        decoder: ViT1DDecoder,
        text: TextTower | None = None,
        dropout: NestedDropout | None = None,
    ) -> None:
        super().__init__(encoder, quantizer, decoder, dropout=dropout)
        if not isinstance(decoder, ViT1DDecoder) or decoder.text_rows is None or decoder.proxy_codes is not None:
            raise ValueError(f"{type(self).__name__} needs a decoders.ViT1DDecoder with text_dim and no proxy_codes")
        self.tower = text

    def forward(self, x: Tensor, text: str | Sequence[str] | Tensor | None = None) -> Reconstruction:
        """As `TiTok.forward`.

        Args:
            x: (B, 3, H, W), in [-1, 1].
            text: a caption, one for each item, features (B, L, W), or None for empty captions.
        """
        self.check_input(x)
        features = self.describe(text, len(x))
        extras: dict[str, Tensor] = {}
        quantized = self.quantizer(self.encode_latents(x, features, extras))
        latents, lengths = self.regularize(quantized.latents) if self.training else (quantized.latents, None)
        latents, ragged = visible(latents, lengths)
        lengths = None if lengths is None else lengths.to(x.device, non_blocking=True)
        output = self.decoder(latents, ragged, self.watch("decoder", extras), features)
        return Reconstruction(output, quantized, lengths, extras)

    def encode_latents(
        self, x: Tensor, features: Tensor | None = None, extras: dict[str, Tensor] | None = None
    ) -> Tensor:
        """x (B, 3, H, W) -> latents (B, N, D); `features` (B, L, W) go to an encoder that reads text."""
        watch = None if extras is None else self.watch("encoder", extras)
        return self.encoder(x, watch, features if self.encoder.text_rows is not None else None)

    def encode(self, x: Tensor, text: str | Sequence[str] | Tensor | None = None) -> Tokens:
        """As `Tokenizer.encode`; `text` as in `forward`, looked at only where the encoder reads it."""
        self.check_input(x, finite=True)
        features = None if self.encoder.text_rows is None else self.describe(text, len(x))
        return self.as_tokens(self.quantizer(self.encode_latents(x.to(self.dtype), features)), x)

    def decode(
        self,
        tokens: Tokens,
        *,
        text: str | Sequence[str] | Tensor | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Tensor:
        """The picture that tokens and a text stand for.

        Args:
            tokens: as `encode` returns them.
            text: as in `forward`.
            generator: without a meaning here, where nothing is drawn.
            options: those of iterative decoders, refused.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            ValueError: the tokens or the text do not fit, or an option is given.
        """
        if given := ", ".join(name for name, value in options.items() if value is not None):
            raise ValueError(f"{type(self).__name__} decodes in one step; {given} has no meaning, leave it out")
        latents, features = self.code_latents(tokens), self.describe(text, len(tokens))
        return self.decode_latents(latents, tokens.lengths, self.output_size(tokens), features)

    def decode_latents(
        self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...], features: Tensor | None = None
    ) -> Tensor:
        """(B, n, D) and text features (B, L, W), by default those of empty captions -> (B, 3, H, W)."""
        if features is None:
            features = self.describe(None, len(latents))
        return self.decoder(*visible(latents, lengths), None, features)

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a TA-TiTok config of bytedance/1d-tokenizer.

        Read are, beside what `TiTok` reads, `clustering_vq`, `text_context_length` and `text_embed_dim` of
        `model.vq_model`. A codebook that is both clustered and normalised becomes a plain `quantizers.VQ`, whose codes
        are the same.

        Raises:
            ValueError: as `TiTok`, or a layout other than the single stage.
        """
        model = config["model"]["vq_model"]
        if model.get("is_legacy", True):
            raise ValueError("TA-TiTok has one layout, the single stage; set is_legacy and finetune_decoder to False")
        node = super().reference_recipe(config)
        node["decoder"]["text_dim"] = int(model.get("text_embed_dim", CLIP_WIDTH))
        node["decoder"]["text_length"] = int(model.get("text_context_length", CLIP_LENGTH))
        node["text"] = {"_target_": "zoo.families.CLIPText"}
        if clustered(model):
            del node["quantizer"]["normalize"]
            node["quantizer"]["_target_"] = "quantizers.ClusteringVQ"
        return node

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of bytedance/1d-tokenizer -> ours, the usage statistics of a clustered codebook included."""
        converted = super().convert({TEXT_KEYS.get(key, key): tensor for key, tensor in state.items()})
        return converted | ({"quantizer.share": state[USAGE]} if USAGE in state else {})

    @classmethod
    def from_reference(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """As `Tokenizer.from_reference`; usage statistics are left out where the config asks for no clustering."""
        if not clustered(config.get("model", {}).get("vq_model", {})):
            state = {key: tensor for key, tensor in state.items() if key != USAGE}
        return super().from_reference(config, state)


def clustered(model: Mapping[str, Any]) -> bool:
    """Whether a reference config asks for the codebook that `quantizers.ClusteringVQ` is."""
    vector = model.get("quantize_mode", "vq") == "vq"
    return vector and bool(model.get("clustering_vq", False)) and not model.get("use_l2_norm", False)
