"""What a user of a tokenizer must know without reading its code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

__all__ = ["Modality", "Order", "TokenizerSpec"]

Modality = Literal["image", "audio", "shape"]
Order = Literal["raster", "time", "coarse_to_fine", "scales"]


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """Shapes, rates and code layout of a tokenizer.

    Attributes:
        modality: what goes in.
        input_shape: of one item without the batch axis: (C, H, W), (C, T) or (P, C). For a tokenizer
            that takes any size it is a typical size.
        codebook_sizes: entries of each of the Q codebooks read in parallel at a position; empty for
            continuous latents.
        dim: width of one latent vector.
        num_tokens: N for an input of `input_shape`; the most that it can be where N depends on the content.
        order: what a generator must know of the N axis. In `coarse_to_fine` any prefix decodes.
        flexible: whether `decode` takes prefixes (`Tokens.keep`).
        any_size: whether inputs other than `input_shape` are accepted.
        downsample: pixels (or samples, for audio) per token along each axis; None for 1D codes.
        scales: how N splits, coarse to fine; empty for a single scale.
        distinct_scales: each scale has codebooks of its own (SNAC) instead of shared ones (VAR).
        sample_rate: Hz, audio only.
        decodes: False for tokenizers that only encode, because what turns their tokens into a signal is another model.
    """

    modality: Modality
    input_shape: tuple[int, ...]
    codebook_sizes: tuple[int, ...]
    dim: int
    num_tokens: int
    order: Order
    flexible: bool = False
    any_size: bool = False
    downsample: int | None = None
    scales: tuple[int, ...] = ()
    distinct_scales: bool = False
    sample_rate: int | None = None
    decodes: bool = True

    def __post_init__(self) -> None:
        if self.modality not in get_args(Modality):
            raise ValueError(f"modality is one of {get_args(Modality)}, got {self.modality!r}")
        if self.order not in get_args(Order):
            raise ValueError(f"order is one of {get_args(Order)}, got {self.order!r}")
        if self.scales and sum(self.scales) != self.num_tokens:
            raise ValueError(f"scales {self.scales} sum to {sum(self.scales)}, not to num_tokens={self.num_tokens}")

    @property
    def continuous(self) -> bool:
        """True when the tokenizer has no codes, only latents."""
        return not self.codebook_sizes

    @property
    def bits_per_token(self) -> float:
        """Bits of one position: the sum of log2 over its codebooks; 0 for continuous latents."""
        return sum(math.log2(size) for size in self.codebook_sizes)

    @property
    def bits(self) -> float:
        """Bits of one item of `input_shape` at full length."""
        return self.num_tokens * self.bits_per_token

    @property
    def token_rate(self) -> float | None:
        """Tokens per second of sound, of all scales; None for other modalities and where the sound decides."""
        if self.sample_rate is None or self.downsample is None:
            return None
        return self.sample_rate / self.downsample * (self.num_tokens / self.scales[-1] if self.scales else 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `config.json` and `zoo info --json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also where JSON has made lists of tuples."""
        given: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
        return cls(**given)
