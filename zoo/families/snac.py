"""SNAC: residual quantization at several rates, coarse codes for what changes slowly (arXiv 2410.14411)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from encoders.layers.masked import blank, past
from quantizers import MultiRate, Quantized, Quantizer
from quantizers.base import check_codebooks
from zoo.families.audio import Count
from zoo.families.codec import AudioCodec
from zoo.families.dac_keys import convert_original
from zoo.families.snac_noise import checked_noise, drawn_noise, fixed_noise
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from decoders.flow import Guidance

__all__ = ["SNAC"]


class SNAC(AudioCodec):
    """`encoders.SNACEncoder`, `quantizers.MultiRate`, `decoders.SNACDecoder`.

    A frame is a latent of `hop_length` samples. Frames come in whole blocks: as many as share a coarsest code, times
    whole windows of attention. A sound gets zeros behind up to whole blocks, and comes back at its own length. With
    `MultiRate`, the N tokens of F frames are F / stride_1, then F / stride_2, ..., coarse to fine: `spec.scales`,
    `tokens.by_scale()`, and `tokens.to_ids("frames")` for the stream in which coarse and fine codes take turns. Any
    other quantizer gives a token per frame.

    Published decoders add noise when they decode. Here it is fixed, a function of the place in the sound alone, unless
    `decode` is given a `generator` or the `noise` itself; `tokenizer.noisy = False` switches it off. Training draws it.

    Args:
        encoder, quantizer, decoder, sample_rate: as in `AudioCodec`.
        noisy: whether the decoder gets noise.

    Attributes:
        block: frames that are coded together.
    """

    def __init__(self, encoder: Any, quantizer: Quantizer, decoder: Any, sample_rate: int, noisy: bool = True) -> None:
        super().__init__(encoder, quantizer, decoder, sample_rate)
        self.noisy = noisy
        self.rates = quantizer.strides if isinstance(quantizer, MultiRate) else (1,)
        self.block = math.lcm(*self.rates, getattr(encoder, "block", 1), getattr(decoder, "block", 1))
        scales = self.scales(self.frames(sample_rate))
        self.spec = replace(self.spec, num_tokens=sum(scales))
        if len(scales) > 1:
            self.spec = replace(self.spec, order="scales", scales=scales, distinct_scales=True)

    def frames(self, samples: Count) -> Count:
        """Frames of a sound of `samples` samples, whole blocks."""
        return -(-samples // (self.hop_length * self.block)) * self.block

    def scales(self, frames: int) -> tuple[int, ...]:
        """Tokens of each level for so many frames, coarse to fine."""
        return tuple(frames // stride for stride in self.rates)

    def count(self, samples: Count) -> Count:
        """Tokens of a sound of `samples` samples, of all levels."""
        return self.frames(samples) // self.block * sum(self.scales(self.block))

    def margin(self, samples: int) -> int:
        """Zeros that a sound of `samples` samples gets behind before it is encoded: to whole blocks."""
        return -samples % (self.hop_length * self.block)

    def encode_by(
        self, quantizer: Quantizer, x: Tensor, lengths: Tensor | None, codebooks: int | None = None
    ) -> Tokens:
        """What `encode` does.

        With `lengths` and several levels, `Tokens.lengths` is (B, levels): an item ends in every level. Padding has
        index 0, and `trim(tokens[1])` is what the second sound has alone.
        """
        if lengths is None or not self.spec.scales:
            return super().encode_by(quantizer, x, lengths, codebooks)
        self.check_input(x, finite=True)
        if codebooks is not None:
            check_codebooks(quantizer, codebooks)
        lengths = self.check_lengths(lengths, x)
        z = self.encode_latents(self.pad(blank(x, lengths)).to(self.dtype), self.frames(lengths) * self.hop_length)
        real = ~past(self.frames(lengths), z.shape[1])
        tokens = self.as_tokens(quantizer(z, real), x)
        kept = torch.cat([real[:, ::stride] for stride in self.rates], dim=1)
        ends = self.ends(self.frames(lengths), tokens.scales)
        return replace(tokens, indices=tokens.indices * kept[..., None], lengths=ends, size=lengths[:, None])

    def as_tokens(self, quantized: Quantized, x: Tensor) -> Tokens:
        """What the quantizer made of sounds x (B, C, T)."""
        tokens = super().as_tokens(quantized, x)
        return replace(tokens, scales=self.scales(self.frames(x.shape[-1]))) if self.spec.scales else tokens

    def trim(self, tokens: Tokens) -> Tokens:
        """Tokens without positions that only fill up: `trim(tokens[1])` is what the second sound has alone."""
        if not self.spec.scales:
            return super().trim(tokens)
        frames = self.frames(self.samples(tokens))
        kept = self.part(tokens, 0, int(frames.max()) if len(tokens) else 0)
        return replace(kept, lengths=self.ends(frames, kept.scales), size=tokens.size)

    def part(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """The tokens of frames start to stop, whole blocks, at all levels, without a size."""
        if not self.spec.scales:
            return super().part(tokens, start, stop)
        if start % self.block or stop % self.block:
            raise ValueError(f"SNAC codes whole blocks of {self.block} frames, asked for frames {start} to {stop}")
        self.levels(tokens)
        parts = [
            level[:, start // stride : stop // stride]
            for level, stride in zip(tokens.by_scale(), self.rates, strict=False)
        ]
        scales = tuple(part.shape[1] for part in parts)
        return replace(tokens, indices=torch.cat(parts, dim=1), lengths=None, scales=scales, size=None)

    def decode_part(self, tokens: Tokens, start: int, generator: torch.Generator | None = None) -> Tensor:
        """`decode` of tokens that begin at frame `start` of a longer sound: the fixed noise goes on."""
        return self.decode(tokens, generator=generator, start=start)

    def levels(self, tokens: Tokens) -> int:
        """Levels that tokens of several rates have; ValueError unless they are whole."""
        frames = tokens.scales[0] * self.rates[0] if tokens.scales else 0
        count = len(tokens.scales)
        if not frames or frames % self.block or tokens.scales != self.scales(frames)[:count]:
            raise ValueError(
                f"SNAC expects scales {self.scales(self.block)} times a whole number, or the first of them, "
                f"got {tokens.scales}"
            )
        return count

    def ends(self, frames: Tensor, scales: tuple[int, ...]) -> Tensor | None:
        """`Tokens.lengths` (B, levels) of items of so many frames (B,); None where all are full."""
        if bool((frames == scales[0] * self.rates[0]).all()):
            return None
        return frames[:, None] // frames.new_tensor(self.rates[: len(scales)])

    def coded_frames(self, tokens: Tokens) -> Tensor:
        """(B,) int64 frames that each item has codes for; ValueError unless all levels of an item end together."""
        levels = self.levels(tokens)
        counts = [part.sum(1) for part in tokens.mask.split(list(tokens.scales), dim=1)]
        frames = torch.stack(counts, dim=1) * tokens.indices.new_tensor(self.rates[:levels])
        if bool((frames != frames[:, :1]).any()) or bool((frames % self.block).any()):
            raise ValueError(f"the levels of an item end together, after whole blocks; got frames {frames.tolist()}")
        return frames[:, 0]

    def samples(self, tokens: Tokens) -> Tensor:
        """(B,) int64 samples that each item decodes to."""
        if not self.spec.scales:
            return super().samples(tokens)
        whole = self.coded_frames(tokens) * self.hop_length
        return whole if tokens.size is None else torch.minimum(whole, tokens.size[:, 0])

    def real_frames(self, tokens: Tokens) -> Tensor | None:
        """(B,) frames of each item, None where all items are full."""
        if not self.spec.scales:
            return tokens.lengths
        frames = self.frames(self.samples(tokens))
        return None if bool((frames == tokens.scales[0] * self.rates[0]).all()) else frames

    def code_latents(self, tokens: Tokens) -> Tensor:
        """The latents (B, F, D) of the codes of all levels, or of the first ones."""
        if not self.spec.scales:
            return super().code_latents(tokens)
        self.check_tokens(tokens)
        assert isinstance(self.quantizer, MultiRate)
        return self.quantizer.lookup(tokens.indices, self.levels(tokens)).to(self.dtype)

    def decode(
        self,
        tokens: Tokens,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: float | Guidance | None = None,
        noise: Tensor | Sequence[Tensor] | None = None,
        start: int = 0,
    ) -> Tensor:
        """The sounds that codes stand for.

        Args:
            tokens: of all levels, or of the first ones (`Tokens.keep`).
            steps, guidance: have no meaning here.
            generator: source of the decoder's noise; None for the fixed noise.
            noise: the noise itself: (B or 1, 1, F * rate) for each of `decoder.noise_rates`.
            start: frame of a longer sound at which the tokens begin, for the fixed noise.

        Returns:
            (B, C, T), as `AudioTokenizer.decode`.

        Raises:
            ValueError: the codes do not belong to this tokenizer, or the noise does not fit them.
        """
        if steps is not None or guidance is not None:
            return super().decode(tokens, steps=steps, guidance=guidance)
        latents, lengths = self.code_latents(tokens), self.real_frames(tokens)
        rates, frames = self.decoder.noise_rates, latents.shape[1]
        if noise is not None:
            drawn = checked_noise(noise, rates, len(tokens), frames)
        elif generator is not None:
            drawn = drawn_noise(rates, len(tokens), frames, generator)
        else:
            drawn = fixed_noise(rates, start, frames)
        sound = self.decode_latents(latents, lengths, self.output_size(tokens), drawn)
        return self.blank(sound, tokens)

    def decode_latents(
        self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...], noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Latents (B, F, D) and real lengths (B,) in frames -> (B, C, *size).

        Args:
            noise: as for `decode`; None for a draw in training, and the fixed noise otherwise.
        """
        rates, (batch, frames) = self.decoder.noise_rates, latents.shape[:2]
        if noise is None and self.training:
            noise = drawn_noise(rates, batch, frames, device=latents.device)
        elif noise is None:
            noise = fixed_noise(rates, 0, frames)
        noise = [one.to(latents) for one in noise] if self.noisy and rates else None
        return self.decoder(latents, lengths, noise)[..., : size[0]]

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for the arguments of `snac.SNAC`, as its `config.json` has them.

        Raises:
            ValueError: a latent width of its own, which no published model has, or unequal rates.
        """
        width, strides = int(config["encoder_dim"]), [int(rate) for rate in config["encoder_rates"]]
        decoder_strides = [int(rate) for rate in config["decoder_rates"]]
        dim = width * 2 ** len(strides)
        if config.get("latent_dim") not in (None, dim) or math.prod(strides) != math.prod(decoder_strides):
            raise ValueError(
                f"SNAC has latents of {dim} channels and equal rates both ways; the config says "
                f"{config.get('latent_dim')}, down by {strides} and up by {decoder_strides}"
            )
        shared = {"window": config.get("attn_window_size"), "depthwise": bool(config.get("depthwise", True))}
        return {
            "_target_": "zoo.families.SNAC",
            "sample_rate": int(config["sampling_rate"]),
            "encoder": {"_target_": "encoders.SNACEncoder", "width": width, "strides": strides, **shared},
            "quantizer": {
                "_target_": "quantizers.MultiRate",
                "strides": [int(stride) for stride in config["vq_strides"]],
                "gradient": "chained",
                "quantizer": {
                    "_target_": "quantizers.Projected",
                    "dim": dim,
                    "quantizer": {
                        "_target_": "quantizers.VQ",
                        "dim": int(config["codebook_dim"]),
                        "codebook_size": int(config["codebook_size"]),
                        "metric": "cosine",
                    },
                },
            },
            "decoder": {
                "_target_": "decoders.SNACDecoder",
                "dim": dim,
                "width": int(config["decoder_dim"]),
                "strides": decoder_strides,
                "noise": bool(config.get("noise", True)),
                **shared,
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of hubertsiuzdak/snac -> ours; weight norm is folded."""
        return convert_original(state)
