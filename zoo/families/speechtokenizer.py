"""SpeechTokenizer: residual codes of speech whose first level learns what is said (arXiv 2308.16692)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from quantizers import Quantizer, Residual
from zoo.families.codec import AudioCodec
from zoo.families.seanet_reference import ema_codebook, seanet_codec_keys, seanet_nodes
from zoo.families.weight_norm import fold_weight_norm
from zoo.tokenizer import Reconstruction
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from decoders.flow import Guidance

__all__ = ["SpeechTokenizer"]


class SpeechTokenizer(AudioCodec):
    """A SEANet autoencoder with an LSTM that reads both ways, whose first codebook is distilled from HuBERT.

    `forward` puts the first level's features, mapped to the teacher's width, into `Reconstruction.extras["semantic"]`,
    (B, N, semantic_dim), one for each token.

    Args:
        encoder, decoder, sample_rate: as in `AudioCodec`.
        quantizer: residual levels of one codebook each; of any other quantizer the whole code is mapped.
        semantic_dim: width of the teacher's features (HuBERT-base: 768).
    """

    def __init__(
        self, encoder: Any, quantizer: Quantizer, decoder: Any, sample_rate: int, semantic_dim: int = 768
    ) -> None:
        super().__init__(encoder, quantizer, decoder, sample_rate)
        self.transform = nn.Linear(quantizer.dim, semantic_dim)

    def forward(self, x: Tensor) -> Reconstruction:
        """As every tokenizer; see the class.

        Args:
            x: (B, 1, T) in [-1, 1].
        """
        self.check_input(x)
        z = self.encode_latents(self.pad(x).to(self.dtype))
        quantized = self.quantizer(z)
        output = self.decode_latents(quantized.latents.to(self.dtype), None, tuple(x.shape[2:]))
        first = quantized.latents
        if self.quantizer.prefixes:
            first = self.quantizer.lookup(quantized.indices[..., :1])
            first = first + (z - z.detach())  # straight through: the teacher moves the encoder
        return Reconstruction(output, quantized, extras={"semantic": self.transform(first.to(self.dtype))})

    def semantic_features(self, tokens: Tokens) -> Tensor:
        """What the first level says in the teacher's space: (B, N, semantic_dim)."""
        return self.transform(self.code_latents(tokens.keep_codebooks(1) if self.quantizer.prefixes else tokens))

    def encode(
        self, x: Tensor, lengths: Tensor | None = None, *, codebooks: int | None = None, first: int = 0
    ) -> Tokens:
        """Codes of a batch of speech, as `AudioTokenizer.encode`.

        Args:
            x: (B, 1, T) float in [-1, 1].
            lengths: (B,) int64 real samples of each item; None when all are T long.
            codebooks: how many codebooks, counted from `first`; None for all.
            first: level to begin with. Levels from k on then read the latents themselves, not what the levels before
                leave over (the reference's `st=k`): codes without the content of level 0, which only `decode(first=k)`
                understands and which are not those that `encode` gives these levels.

        Raises:
            ValueError: also if `first` leaves no level.
        """
        return self.encode_by(self._levels(first), x, lengths, codebooks)

    def decode(
        self,
        tokens: Tokens,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: float | Guidance | None = None,
        noise: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Speech of codes, as `AudioTokenizer.decode`.

        Args:
            tokens: as `encode` returns them, possibly shortened by `Tokens.keep_codebooks`.
            steps, generator, guidance, noise: for other families.
            first: level that the first codebook of `tokens` belongs to.

        Raises:
            ValueError: also if `first` leaves fewer levels than the tokens have codebooks.
        """
        if first == 0:
            return super().decode(tokens, steps=steps, generator=generator, guidance=guidance, noise=noise)
        self.check_tokens(tokens)
        latents = self._levels(first).lookup(tokens.indices).to(self.dtype) * tokens.mask[..., None]
        return self.blank(self.decode_latents(latents, tokens.lengths, self.output_size(tokens)), tokens)

    def _levels(self, first: int) -> Quantizer:
        """The levels from `first` on, as a quantizer of their own."""
        if first == 0:
            return self.quantizer
        if not isinstance(self.quantizer, Residual) or not 0 < first < self.quantizer.num_quantizers:
            levels = getattr(self.quantizer, "num_quantizers", 1)
            raise ValueError(f"first lies in 0 to {levels - 1}, the levels of the quantizer, got {first}")
        return Residual([cast(Quantizer, level) for level in self.quantizer.levels][first:]).eval()

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of ZhangXInFD/SpeechTokenizer.

        Raises:
            ValueError: an activation that no published model has.
        """
        dim, activation = int(config["dimension"]), config.get("activation", "ELU")
        if activation not in ("ELU", "Snake"):
            raise ValueError(f"SpeechTokenizer's activation is ELU or Snake, the config has {activation!r}")
        encoder, decoder = seanet_nodes(
            dim=dim,
            width=int(config["n_filters"]),
            ratios=[int(stride) for stride in config["strides"]],
            bidirectional=bool(config["bidirectional"]),
            depth=int(config["n_residual_layers"]),
            residual_kernel=int(config["residual_kernel_size"]),
            dilation_base=int(config["dilation_base"]),
            causal=False,
            lstm=int(config["lstm_layers"]),
            activation=activation.lower(),
        )
        return {
            "_target_": "zoo.families.SpeechTokenizer",
            "sample_rate": int(config["sample_rate"]),
            "semantic_dim": int(config["semantic_dimension"]),
            "encoder": encoder,
            "quantizer": ema_codebook(dim, int(config["codebook_size"]), int(config["n_q"])),
            "decoder": decoder,
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of ZhangXInFD/SpeechTokenizer -> ours; weight norm is folded."""
        return seanet_codec_keys(fold_weight_norm(state))
