"""EnCodec: residual codes of sound at any of several bitrates (arXiv 2210.13438)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from quantizers import Quantizer
from quantizers.base import check_codebooks
from zoo.families.audio import Count
from zoo.families.codec import AudioCodec
from zoo.families.seanet_reference import ema_codebook, seanet_codec_keys, seanet_nodes
from zoo.families.weight_norm import fold_weight_norm
from zoo.tokenizer import Reconstruction
from zoo.tokens import Tokens

__all__ = ["EnCodec"]

TRANSFORMERS = {  # names in the configs of transformers -> in those of the original
    "sampling_rate": "sample_rate",
    "audio_channels": "channels",
    "hidden_size": "dimension",
    "num_filters": "n_filters",
    "num_residual_layers": "n_residual_layers",
    "upsampling_ratios": "ratios",
    "norm_type": "norm",
    "use_causal_conv": "causal",
    "num_lstm_layers": "lstm",
    "dilation_growth_rate": "dilation_base",
    "codebook_size": "bins",
    "chunk_length_s": "segment",
}


class EnCodec(AudioCodec):
    """A SEANet autoencoder around residual codebooks, of which a bandwidth is the first few.

    With `segment`, sounds are cut into windows that overlap; each is divided by its loudness (root mean square of the
    channels' mean), coded alone and faded into the next by triangular weights. `Tokens` then holds the tokens of window
    after window, and in `gains` the loudness of each; `size` tells them apart and must be there to decode.

    Args:
        encoder, quantizer, decoder, sample_rate: as in `AudioCodec`.
        bandwidths: in kbit/s, on offer for `encode`.
        segment: seconds of a window; None for sounds as a whole.
        overlap: share of a window that it has in common with the next.
        normalize: divide windows (or the whole) by their loudness.

    Raises:
        ValueError: a window shorter than its overlap or than a hop, or parts that do not fit.
    """

    def __init__(
        self,
        encoder: Any,
        quantizer: Quantizer,
        decoder: Any,
        sample_rate: int,
        bandwidths: Sequence[float] = (),
        segment: float | None = None,
        overlap: float = 0.01,
        normalize: bool = False,
    ) -> None:
        super().__init__(encoder, quantizer, decoder, sample_rate)
        self.bandwidths, self.normalize = tuple(bandwidths), normalize
        self.window = None if segment is None else int(segment * sample_rate)
        self.stride = None if self.window is None else max(1, int((1 - overlap) * self.window))
        if self.window is not None and (self.window < self.hop_length or not 0 <= overlap < 1):
            raise ValueError(f"a window of {self.window} samples with an overlap of {overlap} cannot be coded")
        self.spec = replace(self.spec, num_tokens=self.count(sample_rate))

    @property
    def cuts(self) -> bool:
        """Whether tokens come with gains, window by window."""
        return self.window is not None or self.normalize

    @property
    def encoder_streams(self) -> bool:
        """Never where windows or loudness are taken."""
        return super().encoder_streams and not self.cuts

    @property
    def decoder_streams(self) -> bool:
        """Never where windows or loudness are taken."""
        return super().decoder_streams and not self.cuts

    @property
    def latency(self) -> int:
        """Samples of a window, or as in `AudioTokenizer.latency`.

        Raises:
            ValueError: the loudness of the whole sound is needed.
        """
        if self.window is not None:
            return self.window
        if self.normalize:
            raise ValueError("EnCodec divides by the loudness of the whole sound; its latency is the sound's length")
        return super().latency

    def codebooks_at(self, bandwidth: float) -> int:
        """Codebooks of a bandwidth in kbit/s, one of `bandwidths` if there are any.

        Raises:
            ValueError: the bandwidth is not on offer.
        """
        if not self.bandwidths:
            return super().codebooks_at(bandwidth)
        if bandwidth not in self.bandwidths:
            offered = ", ".join(f"{value:g}" for value in self.bandwidths)
            raise ValueError(f"EnCodec has bandwidths of {offered} kbit/s, got {bandwidth:g}")
        frame_rate = math.ceil(self.spec.input_shape[1] / self.hop_length)
        per_codebook = math.log2(self.spec.codebook_sizes[0]) * frame_rate
        return min(max(1, math.floor(bandwidth * 1000 / per_codebook)), len(self.spec.codebook_sizes))

    def count(self, samples: Count) -> Count:
        """Tokens of a sound of `samples` samples, all windows together."""
        if self.window is None or self.stride is None:
            return super().count(samples)
        hop, total = self.hop_length, 0
        if isinstance(samples, Tensor):
            counts = [self.count(int(value)) for value in samples.flatten().tolist()]
            return torch.tensor(counts, device=samples.device).view_as(samples)
        for start in range(0, samples, self.stride):
            total += -(-min(self.window, samples - start) // hop)
        return total

    def forward(self, x: Tensor) -> Reconstruction:
        """As every tokenizer; windows are cut in training too.

        Args:
            x: (B, C, T) in [-1, 1].
        """
        if not self.cuts:
            return super().forward(x)
        self.check_input(x)
        z, gains = self.encode_windows(x.to(self.dtype))
        quantized = self.quantizer(z)
        return Reconstruction(self.decode_windows(quantized.latents.to(self.dtype), gains, x.shape[-1]), quantized)

    def encode(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        *,
        bandwidth: float | None = None,
        codebooks: int | None = None,
    ) -> Tokens:
        """Codes of a batch of sounds, as `AudioTokenizer.encode`.

        Args:
            x: (B, C, T) float in [-1, 1].
            lengths: (B,) int64 real samples of each item; None when all are T long.
            bandwidth: kbit/s, one of `bandwidths`; None for all codebooks.
            codebooks: or how many codebooks.

        Raises:
            ValueError: both bandwidth and codebooks, or a bandwidth that is not on offer.
        """
        if bandwidth is not None:
            if codebooks is not None:
                raise ValueError(f"give bandwidth={bandwidth} or codebooks={codebooks}, not both")
            codebooks = self.codebooks_at(bandwidth)
        if not self.cuts:
            return super().encode(x, lengths, codebooks=codebooks)
        self.check_input(x, finite=True)
        if lengths is not None:
            ends = self.check_lengths(lengths, x).tolist()
            return Tokens.cat([self.encode(x[i : i + 1, :, :end], codebooks=codebooks) for i, end in enumerate(ends)])
        option = {} if codebooks is None else {"codebooks": check_codebooks(self.quantizer, codebooks)}
        z, gains = self.encode_windows(x.to(self.dtype))
        return replace(self.as_tokens(self.quantizer(z, **option), x), gains=gains)

    def decode_tokens(self, tokens: Tokens) -> Tensor:
        """The sounds of codes; windows need `tokens.size` and, with `normalize`, `tokens.gains`.

        Raises:
            ValueError: one of them is missing, or the number of tokens does not belong to that size.
        """
        if not self.cuts:
            return super().decode_tokens(tokens)
        latents, gains = self.code_latents(tokens), tokens.gains
        if tokens.size is None or (gains is None) == self.normalize:
            raise ValueError("these tokens stand for windows: pass them on with the size and the gains of encode")
        ends = tokens.size[:, 0].tolist()
        if latents.shape[1] != max(map(self.count, ends)):
            raise ValueError(
                f"a sound of {max(ends)} samples has {self.count(max(ends))} tokens, got {latents.shape[1]}"
            )
        if len(set(ends)) == 1:
            return self.decode_windows(latents, gains, ends[0])
        sound = latents.new_zeros(len(ends), self.spec.input_shape[0], max(ends))
        for item, end in enumerate(ends):
            own = slice(item, item + 1)
            loudness = None if gains is None else gains[own, : self.windows(end)]
            sound[own, :, :end] = self.decode_windows(latents[own, : self.count(end)], loudness, end)
        return sound

    def trim(self, tokens: Tokens) -> Tokens:
        """As `AudioTokenizer.trim`; gains go with their windows."""
        kept = super().trim(tokens)
        if kept.gains is None or kept.size is None or not len(kept):
            return kept
        return replace(kept, gains=kept.gains[:, : self.windows(int(kept.size.max()))])

    def windows(self, samples: int) -> int:
        """Windows of a sound of `samples` samples."""
        full, starts = self._cut(samples)
        return full + len(starts)

    def samples(self, tokens: Tokens) -> Tensor:
        """(B,) int64 samples that each item decodes to."""
        return tokens.size[:, 0] if self.cuts and tokens.size is not None else super().samples(tokens)

    def encode_windows(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents and loudness of all windows of x (B, C, T): (B, `count(T)`, D) and, with `normalize`, (B, S)."""
        full, starts = self._cut(x.shape[-1])
        pieces = [x[..., start:] for start in starts]
        if full:
            assert self.window is not None and self.stride is not None
            stacked = x.unfold(-1, self.window, self.stride)[:, :, :full]
            pieces.insert(0, rearrange(stacked, "b c s t -> (b s) c t"))
        latents, gains = [], []
        for piece in pieces:
            if self.normalize:
                loudness = piece.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt() + 1e-8
                piece = piece / loudness
                gains.append(loudness.view(len(x), -1))
            latents.append(rearrange(self.encoder(piece), "(b s) n d -> b (s n) d", b=len(x)))
        return torch.cat(latents, dim=1), torch.cat(gains, dim=1) if gains else None

    def decode_windows(self, latents: Tensor, gains: Tensor | None, samples: int) -> Tensor:
        """The sound (B, C, samples) of what `encode_windows` returns."""
        full, starts = self._cut(samples)
        counts = [-(-(samples - start) // self.hop_length) for start in starts]
        stride = self.stride or samples
        pieces = []
        if full:
            each = (latents.shape[1] - sum(counts)) // full
            stacked = rearrange(latents[:, : full * each], "b (s n) d -> (b s) n d", s=full)
            pieces += rearrange(self.decoder(stacked), "(b s) c t -> s b c t", s=full).unbind()
        place = latents.shape[1] - sum(counts)
        for count in counts:
            pieces.append(self.decoder(latents[:, place : place + count]))
            place += count
        if gains is not None:
            pieces = [
                piece * gain[:, None, None] for piece, gain in zip(pieces, gains.to(latents.dtype).mT, strict=True)
            ]
        return pieces[0][..., :samples] if len(pieces) == 1 else fade(pieces, stride)[..., :samples]

    def _cut(self, samples: int) -> tuple[int, list[int]]:
        """How many windows are whole, and where those begin that the end cuts short."""
        if self.window is None or self.stride is None:
            return 0, [0]
        full = max(0, (samples - self.window) // self.stride + 1)
        return full, list(range(full * self.stride, samples, self.stride))

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of facebookresearch/encodec or of transformers.

        Raises:
            ValueError: something that no published model has.
        """
        known = {TRANSFORMERS.get(key, key): value for key, value in config.items()}
        norm, dim, bins = known["norm"], int(known["dimension"]), int(known["bins"])
        if norm not in ("weight_norm", "time_group_norm", "none"):
            raise ValueError(f"EnCodec's norm is weight_norm, time_group_norm or none, the config has {norm!r}")
        if known.get("trim_right_ratio", 1.0) != 1.0 or int(known.get("codebook_dim") or dim) != dim:
            raise ValueError("EnCodec expects trim_right_ratio=1 and codebook_dim equal to the width of the latents")
        ratios, rate = [int(ratio) for ratio in known["ratios"]], int(known["sample_rate"])
        bandwidths = [float(value) for value in known["target_bandwidths"]]
        frame_rate = math.ceil(rate / math.prod(ratios))
        levels = known.get("n_q") or max(1, math.floor(bandwidths[-1] * 1000 / (math.log2(bins) * frame_rate)))
        encoder, decoder = seanet_nodes(
            dim=dim,
            width=int(known["n_filters"]),
            ratios=ratios,
            channels=int(known["channels"]),
            depth=int(known["n_residual_layers"]),
            kernel=int(known.get("kernel_size", 7)),
            last_kernel=int(known.get("last_kernel_size", 7)),
            residual_kernel=int(known.get("residual_kernel_size", 3)),
            dilation_base=int(known.get("dilation_base", 2)),
            compress=int(known.get("compress", 2)),
            causal=bool(known["causal"]),
            edges=known.get("pad_mode", "reflect"),
            conv_shortcut=bool(known.get("use_conv_shortcut", not known.get("true_skip", False))),
            lstm=int(known["lstm"]),
            norm=norm == "time_group_norm",
        )
        segment = known.get("segment")
        return {
            "_target_": "zoo.families.EnCodec",
            "sample_rate": rate,
            "bandwidths": bandwidths,
            "segment": None if segment is None else float(segment),
            "overlap": float(known.get("overlap") or 0.0) if segment is not None else 0.01,
            "normalize": bool(known["normalize"]),
            "encoder": encoder,
            "quantizer": ema_codebook(dim, bins, int(levels)),
            "decoder": decoder,
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of facebookresearch/encodec or of transformers -> ours; weight norm is folded."""
        return seanet_codec_keys(fold_weight_norm(state))


def fade(pieces: Sequence[Tensor], stride: int) -> Tensor:
    """Windows (B, C, L), one every `stride` samples, added up with triangular weights that sum to 1 everywhere.

    Windows may be shorter than the first, and then have the beginning of its weights.
    """
    first = pieces[0]
    rise = torch.linspace(0, 1, first.shape[-1] + 2, device=first.device, dtype=first.dtype)[1:-1]
    weights = torch.minimum(rise, 1 - rise)
    total = (len(pieces) - 1) * stride + pieces[-1].shape[-1]
    sound, sums = first.new_zeros(*first.shape[:2], total), first.new_zeros(total)
    for number, piece in enumerate(pieces):
        place, length = number * stride, piece.shape[-1]
        sound[..., place : place + length] += piece * weights[:length]
        sums[place : place + length] += weights[:length]
    return sound / sums
