"""ALIT: an image as 32, 64, ... or 256 tokens, allocated roll-out by roll-out (arXiv 2411.02393)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from decoders import ProxyDecoder
from encoders import RolloutViT1D
from quantizers import Quantized, Quantizer
from zoo.families.distilled import (
    DistilledTokenizer,
    convert_distilled,
    quantizer_node,
    shared_arguments,
    transformer_arguments,
)
from zoo.tokenizer import Reconstruction
from zoo.tokens import Tokens

__all__ = ["ALIT"]

RENAMED = {
    "encoder_positional_embedding": "encoder.position_embedding",
    "encoder_class_embedding": "encoder.class_embedding",
    "encoder_mask_token": "encoder.mask_token",
    "encoder_ln_pre": "encoder.norm_pre",
    "encoder_ln_recursive": "encoder.norm_between",
    "encoder_ln_post": "encoder.norm_post",
    "pre_quantizer_mlp": "encoder.proj",
    "latent_tokens": "encoder.latent_tokens",
    "latent_token_positional_embedding": "encoder.latent_position_embedding",
    "timestep_embedding": "encoder.step_embedding",
    "patch_embed": "encoder.patches.embedding",
    "quantize.embedding.weight": "quantizer.codebook",
    "decoder_positional_embedding": "decoder.logits.position_embedding",
    "decoder_class_embedding": "decoder.logits.class_embedding",
    "decoder_mask_token": "decoder.logits.mask_token",
    "decoder.latent_token_positional_embedding": "decoder.logits.latent_position_embedding",
    "decoder.decoder_embed": "decoder.logits.latent_embedding",
    "decoder.ln_pre": "decoder.logits.norm_pre",
    "decoder.ln_post": "decoder.logits.norm_post",
    "decoder.ffn.0": "decoder.logits.head.0",
    "decoder.ffn.2": "decoder.logits.head.2",
}


class ALIT(DistilledTokenizer):
    """Roll-outs of one encoder, each of which adds tokens and reads all of them anew.

    `encode(x, tokens=k)` stops after the roll-out that ends at k. Since every roll-out rewrites the tokens before it,
    that is not the first part of a longer code; `Tokens.keep` decodes, but was not trained for.

    While training with `proxy_training`, every roll-out is decoded: `extras["proxy_logits"]` is (R, B, K, h, w),
    `extras["proxy_codes"]` (B, h, w) what they should say, and the quantizer's loss is summed. Otherwise one length is
    drawn for a batch, and its pixels are `output`.

    Args:
        encoder, quantizer, decoder, proxy_training: as in `DistilledTokenizer`.
        halting: while training, a patch whose code the decoder gives at least this probability is masked for the
            roll-outs that follow, at random with that probability; None masks none.
    """

    encoder: RolloutViT1D

    def __init__(
        self,
        encoder: RolloutViT1D,
        quantizer: Quantizer,
        decoder: ProxyDecoder,
        proxy_training: bool = False,
        halting: float | None = 0.55,
    ) -> None:
        super().__init__(encoder, quantizer, decoder, num_tokens=encoder.num_tokens, proxy_training=proxy_training)
        self.halting = halting

    def encode(
        self,
        x: Tensor,
        *,
        tokens: int | None = None,
        halting: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """Codes of a batch.

        Args:
            x: (B, 3, H, W), in [-1, 1].
            tokens: length of the code, a multiple of `encoder.step`; None for the longest.
            halting: mask patches between roll-outs as in training, at this threshold (published: 0.55), as the original
                does in evaluation too; None masks none, and nothing is drawn.
            generator: of the draws; the global one by default.

        Raises:
            ValueError: x does not fit, or no roll-out ends at `tokens`.
        """
        rollouts = self.encoder.rollouts(self.spec.num_tokens if tokens is None else tokens)
        self.check_input(x, finite=True)
        (quantized,), _, _ = self.unroll(x, rollouts, halting=halting, generator=generator)
        return self.as_tokens(quantized, x)

    def forward(self, x: Tensor) -> Reconstruction:
        """As `Tokenizer.forward`; the class says what training returns."""
        self.check_input(x)
        most = self.spec.num_tokens // self.encoder.step
        if not self.training:
            (quantized,), _, _ = self.unroll(x, most)
            logits = self.decoder.logits(quantized.latents)
            return Reconstruction(self.decoder.render(logits), quantized, extras={"proxy_logits": logits})
        if not self.proxy_training:
            rollouts = int(torch.randint(1, most + 1, ()))
            (quantized,), _, _ = self.unroll(x, rollouts, halting=self.halting)
            lengths = torch.full((len(x),), quantized.latents.shape[1], device=x.device)
            return Reconstruction(self.decoder(quantized.latents), quantized, lengths)
        every, logits, codes = self.unroll(x, most, halting=self.halting, every=True)
        loss = torch.stack([quantized.loss for quantized in every]).sum()
        assert logits is not None and codes is not None
        extras = {"proxy_logits": logits, "proxy_codes": codes}
        return Reconstruction(logits[-1], replace(every[-1], loss=loss), extras=extras)

    def unroll(
        self,
        x: Tensor,
        rollouts: int,
        *,
        halting: float | None = None,
        generator: torch.Generator | None = None,
        every: bool = False,
    ) -> tuple[list[Quantized], Tensor | None, Tensor | None]:
        """Run the encoder, and between roll-outs what halting needs.

        Args:
            x: (B, 3, H, W), in [-1, 1].
            rollouts: how many.
            halting, generator: as in `encode`.
            every: quantize and decode all roll-outs, not the last alone.

        Returns:
            The quantizer's results; with `every` the logits (R, B, K, h, w); and, where they were needed, the grid
            tokenizer's codes (B, h, w).
        """
        encoder, results, predictions = self.encoder, [], []
        sequence, base = encoder.begin(x.to(self.dtype))
        codes = self.proxy_codes(base) if every or halting is not None else None
        for number in range(1, rollouts):
            sequence = encoder.process(sequence)
            if every or halting is not None:
                quantized = self.quantizer(encoder.read(sequence))
                logits = self.decoder.logits(quantized.latents)
                if every:
                    results.append(quantized)
                    predictions.append(logits)
                if halting is not None and codes is not None:
                    sequence = encoder.forget(sequence, settled(logits, codes, halting, generator))
            sequence = encoder.extend(sequence, number)
        results.append(self.quantizer(encoder.finish(sequence)))
        if not every:
            return results, None, codes
        predictions.append(self.decoder.logits(results[-1].latents))
        return results, torch.stack(predictions), codes

    def encode_latents(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> latents of the longest code, before quantization (B, N, D)."""
        return self.encoder(x)

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for `{args, base_vqgan}`: arguments of the reference class, and config of its base VQGAN if unusual.

        Raises:
            ValueError: the base tokenizer is another one, or latents are not narrow.
        """
        args = config["args"]
        shared, convolutions, codes = shared_arguments(config)
        step, rollouts = int(args["num_init_latent_tokens"]), int(args["max_rollout_iters"])
        shared["num_tokens"] = step * rollouts
        return {
            "_target_": "zoo.families.ALIT",
            "halting": float(args["dynamic_halting_threshold"]) if args["dynamic_halting"] else None,
            "encoder": {
                "_target_": "encoders.RolloutViT1D",
                **shared,
                **transformer_arguments(args, "encoder"),
                "step": step,
                "base": {"_target_": "encoders.MaskGITEncoder", **convolutions},
            },
            "quantizer": quantizer_node(args),
            "decoder": {
                "_target_": "decoders.ProxyDecoder",
                "logits": {
                    "_target_": "decoders.ViT1DDecoder",
                    **shared,
                    **transformer_arguments(args, "decoder"),
                    "num_tokens": 256,
                    "proxy_codes": codes,
                },
                "pixels": {"_target_": "decoders.MaskGITDecoder", **convolutions},
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of ShivamDuggal4/adaptive-length-tokenizer -> ours."""
        return convert_distilled(state, RENAMED)


def settled(logits: Tensor, codes: Tensor, threshold: float, generator: torch.Generator | None = None) -> Tensor:
    """Which patches need no further look: each with the probability that its code has, where that is high.

    Args:
        logits: (B, K, h, w).
        codes: (B, h, w) int64, what they should say.
        threshold: below it a patch is not settled.

    Returns:
        (B, h * w) bool.
    """
    with torch.no_grad():
        sure = logits.float().softmax(1).gather(1, codes[:, None])[:, 0].flatten(1)
        return torch.bernoulli(sure, generator=generator).bool() & (sure >= threshold)
