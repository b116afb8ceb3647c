"""KARL: as many tokens as an image needs for a wanted quality, decided in one pass (arXiv 2507.07995)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import ProxyDecoder
from encoders import HaltingViT1D
from quantizers import Quantized, Quantizer
from zoo.families.distilled import (
    DistilledTokenizer,
    convert_distilled,
    quantizer_node,
    shared_arguments,
    transformer_arguments,
)
from zoo.families.dropout import visible
from zoo.tokenizer import Reconstruction
from zoo.tokens import Tokens

__all__ = ["KARL"]

PLACES, BUDGET, POSITION_SIDE = 512, 256, 64
RENAMED = {
    "encoder_positional_embedding": "encoder.position_map.map",
    "rec_loss_embeddings": "encoder.quality_embedding",
    "latent_tokens": "encoder.latent_tokens",
    "encoder_ln_pre": "encoder.norm_pre",
    "encoder_ln_post": "encoder.norm_post",
    "encoder_ln_post_halt": "encoder.norm_halting",
    "pre_quantizer_mlp": "encoder.proj",
    "halting_mlp.0": "encoder.halting.0",
    "halting_mlp.2": "encoder.halting.2",
    "patch_embed": "encoder.patches.embedding",
    "quantize.embedding.weight": "quantizer.codebook",
    "decoder_positional_embedding": "decoder.logits.position_map.map",
    "decoder_mask_token": "decoder.logits.mask_token",
    "decoder_latent_tokens_timestep_embed": "decoder.logits.latent_position_embedding",
    "decoder_embed": "decoder.logits.latent_embedding",
    "decoder.ln_pre": "decoder.logits.norm_pre",
    "decoder.ln_post": "decoder.logits.norm_post",
    "decoder.ffn.0": "decoder.logits.head.0",
    "decoder.ffn.2": "decoder.logits.head.2",
}


class _Pass(NamedTuple):
    """A pass in training: full code, logits (B, K, h, w), lengths (B,), halting loss, the base encoder's latents."""

    quantized: Quantized
    logits: Tensor
    lengths: Tensor
    halting: Tensor
    base: Tensor


class KARL(DistilledTokenizer):
    """One pass over an image, a budget of tokens and a wanted quality; tokens that are not needed halt.

    Halted tokens may lie anywhere, and are left out: a code holds the active ones in order, `lengths` says how many,
    `positions` where they were; positions are None when no item has a gap.

    A training step has two passes. The first asks for a near-lossless code of a random length and measures the error
    that it leaves. The second gets that error as the wanted quality and the whole budget, and learns to halt what
    exceeds that length. The halting losses are part of the quantizer's loss, under "halting" in its `parts`. With
    `proxy_training`, `extras["proxy_logits"]` is (2, B, K, h, w) and `extras["proxy_codes"]` (B, h, w) what both should
    say; otherwise each item's `output` is that of one pass, drawn evenly.

    Args:
        encoder, quantizer, decoder, proxy_training: as in `DistilledTokenizer`.
        num_tokens: the budget, unless `encode` gets another: the longest code. The published tables have 512 places, of
            which their training reached 368.
        quality: the wanted quality, unless `encode` gets another: mean absolute error of pixels in [0, 1].
        halting: tokens halt above this probability.
        shortest, longest: bounds of the first pass's length, drawn in multiples of `shortest`.
        lossless: the first pass asks for one of the qualities up to this.
        halting_weight: of the halting losses.
    """

    encoder: HaltingViT1D
    decoder: Any  # a ProxyDecoder around a SlotDecoder

    def __init__(
        self,
        encoder: HaltingViT1D,
        quantizer: Quantizer,
        decoder: ProxyDecoder,
        num_tokens: int = BUDGET,
        proxy_training: bool = False,
        quality: float = 0.05,
        halting: float = 0.75,
        shortest: int = 16,
        longest: int = 368,
        lossless: float = 0.04,
        halting_weight: float = 1.0,
    ) -> None:
        super().__init__(encoder, quantizer, decoder, num_tokens=num_tokens, proxy_training=proxy_training)
        if not 1 <= shortest <= min(longest, encoder.num_tokens):
            raise ValueError(f"shortest={shortest} must lie in 1..min(longest, encoder.num_tokens)")
        self.quality, self.halting, self.halting_weight = quality, halting, halting_weight
        self.shortest, self.longest = shortest, min(longest, encoder.num_tokens)
        self.lossless = lossless

    def encode(self, x: Tensor, *, quality: float | Tensor | None = None, budget: int | None = None) -> Tokens:
        """Codes of a batch, each as long as its image needs.

        Args:
            x: (B, 3, H, W), in [-1, 1].
            quality: mean absolute error of pixels in [0, 1] that may remain, one number or (B,); rounded up to the next
                of `encoder.qualities`. None for the tokenizer's own.
            budget: the most tokens that an image may have, 1 to `num_tokens`; None for all.

        Returns:
            Tokens with `lengths`, and `positions` where tokens before others halted.

        Raises:
            ValueError: x does not fit, quality is negative, or budget is out of range.
        """
        budget = self.spec.num_tokens if budget is None else budget
        if not 1 <= budget <= self.spec.num_tokens:
            raise ValueError(f"budget must lie in 1..{self.spec.num_tokens}, got {budget}")
        self.check_input(x, finite=True)
        wanted = torch.as_tensor(self.quality if quality is None else quality, dtype=torch.float32, device=x.device)
        if wanted.shape not in ((), (len(x),)) or not bool((wanted >= 0).all()):
            raise ValueError(f"quality is an error of at least 0, one for all or for each image, got {quality}")
        _, kept, lengths, positions = self._code(x, wanted.expand(len(x)), budget)
        return replace(self.as_tokens(kept, x), lengths=lengths, positions=positions)

    def decode_tokens(self, tokens: Tokens) -> Tensor:
        """As `Tokenizer.decode_tokens`; each token counts at the place that `tokens.positions` gives it.

        Raises:
            ValueError: as there, or a position lies outside the code.
        """
        if tokens.positions is None:
            return super().decode_tokens(tokens)
        latents = self.code_latents(tokens)
        places = tokens.positions * tokens.mask
        if not 0 <= int(places.min()) <= int(places.max()) < self.decoder.num_tokens:
            raise ValueError(f"positions must lie in 0..{self.decoder.num_tokens - 1}, got {places.max().item()}")
        return self.decoder.render(self._logits(latents, tokens.lengths, places))

    def forward(self, x: Tensor) -> Reconstruction:
        """As `Tokenizer.forward`; the class says what training returns."""
        self.check_input(x)
        if not self.training:
            quality = torch.full((len(x),), self.quality, device=x.device)
            quantized, kept, lengths, positions = self._code(x, quality, self.spec.num_tokens)
            logits = self._logits(kept.latents.to(self.dtype), lengths, positions)
            return Reconstruction(self.decoder.render(logits), quantized, lengths, {"proxy_logits": logits})
        steps = int(torch.randint(1, self.longest // self.shortest + 1, ()))
        reach = steps * self.shortest
        near_lossless = int((torch.tensor(self.encoder.qualities) <= self.lossless).sum())
        bins = torch.randint(0, max(1, near_lossless), (len(x),), device=x.device)
        first = self._train_pass(x, bins, reach, reach, drop=False)
        with torch.no_grad():
            error = (self.decoder.render(first.logits) - x).abs().flatten(1).mean(1) / 2
        budget = self.spec.num_tokens
        second = self._train_pass(x, self.encoder.bins(error), budget, min(reach, budget), drop=True)
        halting = first.halting + second.halting
        quantized = replace(
            second.quantized,
            loss=first.quantized.loss + second.quantized.loss + self.halting_weight * halting,
            parts={**second.quantized.parts, "halting": halting.detach()},
        )
        if self.proxy_training:
            logits = torch.stack([first.logits, second.logits])
            extras = {"proxy_logits": logits, "proxy_codes": self.proxy_codes(first.base)}
            return Reconstruction(second.logits, quantized, second.lengths, extras)
        of_first = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
        logits = torch.where(of_first, first.logits, second.logits)
        return Reconstruction(self.decoder.render(logits), quantized, second.lengths)

    def encode_latents(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> latents of the whole budget at the tokenizer's quality, before quantization (B, N, D)."""
        quality = torch.full((len(x),), self.quality, device=x.device)
        return self.encoder(x, self.encoder.bins(quality), self.spec.num_tokens).latents

    def _code(self, x: Tensor, quality: Tensor, budget: int) -> tuple[Quantized, Quantized, Tensor, Tensor | None]:
        """The full code, what of it is active, lengths (B,), and positions (B, n) where there are gaps."""
        coded = self.encoder(x.to(self.dtype), self.encoder.bins(quality), budget)
        quantized = self.quantizer(coded.latents)
        return quantized, *keep_active(quantized, coded.logits.sigmoid() <= self.halting)

    def _logits(self, latents: Tensor, lengths: Tensor | None, positions: Tensor | None) -> Tensor:
        latents, ragged = visible(latents, lengths)
        return self.decoder.logits(latents, ragged, None if positions is None else positions[:, : latents.shape[1]])

    def _train_pass(self, x: Tensor, bins: Tensor, tokens: int, needed: int, *, drop: bool) -> _Pass:
        """One pass in which all tokens after the first `needed` should halt; with `drop`, the halted are left out."""
        coded = self.encoder(x.to(self.dtype), bins, tokens)
        quantized = self.quantizer(coded.latents)
        halting = coded.logits.float()
        loss = F.binary_cross_entropy_with_logits(halting[:, :needed], torch.zeros_like(halting[:, :needed]))
        if needed < tokens:
            surplus = halting[:, needed:]
            loss = loss + F.binary_cross_entropy_with_logits(surplus, torch.ones_like(surplus))
        kept, lengths, positions = quantized, torch.full((len(x),), tokens, device=x.device), None
        if drop:
            kept, lengths, positions = keep_active(quantized, halting.detach().sigmoid() <= self.halting)
        logits = self._logits(kept.latents.to(self.dtype), lengths, positions)
        return _Pass(quantized, logits, lengths, loss, coded.base)

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for `{args, base_vqgan}`: arguments of the reference class, and config of its base VQGAN if unusual.

        Raises:
            ValueError: the base tokenizer is another one, or latents are not narrow.
        """
        args = config["args"]
        shared, convolutions, codes = shared_arguments(config)
        places = {"num_tokens": PLACES, "position_side": int(args.get("max_grid_tokens", POSITION_SIDE))}
        return {
            "_target_": "zoo.families.KARL",
            "num_tokens": BUDGET,
            "encoder": {
                "_target_": "encoders.HaltingViT1D",
                **shared,
                **transformer_arguments(args, "encoder"),
                **places,
                "base": {"_target_": "encoders.MaskGITEncoder", **convolutions},
            },
            "quantizer": quantizer_node(args),
            "decoder": {
                "_target_": "decoders.ProxyDecoder",
                "logits": {
                    "_target_": "decoders.SlotDecoder",
                    **shared,
                    **transformer_arguments(args, "decoder"),
                    **places,
                    "proxy_codes": codes,
                },
                "pixels": {"_target_": "decoders.MaskGITDecoder", **convolutions},
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of ShivamDuggal4/karl -> ours."""
        return convert_distilled(state, RENAMED)


def keep_active(quantized: Quantized, active: Tensor) -> tuple[Quantized, Tensor, Tensor | None]:
    """Move the active tokens of each item to its front.

    Args:
        quantized: of N tokens.
        active: (B, N) bool.

    Returns:
        The same with as many tokens as the longest item has, at least one, and zeros at the end of shorter items;
        lengths (B,) int64; the places (B, n) int64 the tokens had, None where no item has a gap.
    """
    lengths = active.sum(1)
    longest = max(1, int(lengths.max()))
    positions = (~active).byte().sort(dim=1, stable=True).indices[:, :longest]
    ended = torch.arange(longest, device=active.device) >= lengths[:, None]
    positions = positions.masked_fill(ended, 0)

    def take(tensor: Tensor) -> Tensor:
        chosen = positions[..., None].expand(-1, -1, tensor.shape[2])
        return tensor.gather(1, chosen).masked_fill(ended[..., None], 0)

    kept = replace(quantized, indices=take(quantized.indices), latents=take(quantized.latents))
    gaps = bool((positions > torch.arange(longest, device=active.device)).any())
    return kept, lengths, positions if gaps else None
