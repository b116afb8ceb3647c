"""The one interface behind which every family stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from quantizers import Quantized, Quantizer
from zoo.spec import TokenizerSpec
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from decoders.flow import Guidance

__all__ = ["Reconstruction", "Tokenizer"]


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What a training step sees.

    Attributes:
        output: like the input, on its scale ([-1, 1] for images and audio) but not clamped.
        quantized: the quantizer's result on the full code.
        lengths: (B,) int64 tokens that reached the decoder, or None for all.
        extras: named intermediate results that an objective may ask for, for example
            `proxy_logits` (B, K, h, w) of a two-stage TiTok.
    """

    output: Tensor
    quantized: Quantized
    lengths: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


class Tokenizer(nn.Module):
    """An encoder, a quantizer and a decoder; subclasses say how they meet.

    A family sets `spec`, and overrides `encode_latents`, `decode_latents` or `regularize` where it differs.

    Attributes:
        spec: shapes, rates and code layout.
        config: the resolved recipe node that built this object, so that it can be saved and rebuilt;
            empty for an object put together by hand.
        exposed: names of inner features that `forward` puts into `Reconstruction.extras`; see `expose`.
        iterative: whether `decode` works in steps, and so takes `steps`, `guidance` and `noise`.
    """

    iterative: ClassVar[bool] = False

    spec: TokenizerSpec
    config: dict[str, Any]
    quantizer: Quantizer

    def __init__(self, encoder: nn.Module, quantizer: Quantizer, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder
        self.config = {}
        self.exposed: tuple[str, ...] = ()

    @property
    def features(self) -> dict[str, int]:
        """Names and widths W of inner features on offer, each (B, W, h, w), or (B, W) for a whole image: none here."""
        return {}

    def expose(self, *names: str) -> None:
        """Have `forward` put these features into `Reconstruction.extras` from now on; those not asked for cost nothing.

        Raises:
            ValueError: the family offers no feature of that name.
        """
        for name in names:
            if name not in self.features:
                offered = ", ".join(self.features) or "none"
                raise ValueError(f"{type(self).__name__} offers no feature {name!r}; it has: {offered}")
        self.exposed = tuple(dict.fromkeys((*self.exposed, *names)))

    def watch(self, side: str, extras: dict[str, Tensor]) -> Callable[[str, Tensor], None] | None:
        """For a `forward`: what puts the exposed features of "encoder" or "decoder" into `extras`; None if none is."""
        wanted = [name for name in self.exposed if name.startswith(f"{side}.")]

        def keep(name: str, features: Tensor) -> None:
            if f"{side}.{name}" in wanted:
                extras[f"{side}.{name}"] = features

        return keep if wanted else None

    def encode_latents(self, x: Tensor) -> Tensor:
        """x (B, C, ...) -> latents before quantization (B, N, D)."""
        return self.encoder(x)

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """Quantized latents (B, n, D) -> signal; `size` is that of the input without batch and channels."""
        raise NotImplementedError(f"{type(self).__name__} must define decode_latents")

    def regularize(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """What training does to the code before it is decoded (nested dropout, tail drop): identity here.

        Returns:
            latents (B, n, D) and lengths (B,) or None.
        """
        return latents, None

    def forward(self, x: Tensor) -> Reconstruction:
        """Encode, quantize, regularize (in training) and decode with gradients.

        Args:
            x: (B, *spec.input_shape), in [-1, 1].
        """
        self.check_input(x)
        quantized = self.quantizer(self.encode_latents(self.pad(x).to(self.dtype)))
        latents, lengths = self.regularize(quantized.latents) if self.training else (quantized.latents, None)
        output = self.decode_latents(latents.to(self.dtype), lengths, tuple(x.shape[2:]))
        return Reconstruction(output, quantized, lengths)

    def encode(self, x: Tensor) -> Tokens:
        """Codes of a batch.

        Args:
            x: (B, *spec.input_shape) float, in [-1, 1]; any spatial size where `spec.any_size`.

        Returns:
            Tokens with indices (B, N, Q) and size (B, axes); latents (B, N, D) instead of codes for
            continuous families.

        Raises:
            ValueError: rank, channels or size do not fit `spec`, or x holds NaN or infinity.
        """
        self.check_input(x, finite=True)
        return self.as_tokens(self.quantizer(self.encode_latents(self.pad(x).to(self.dtype))), x)

    def as_tokens(self, quantized: Quantized, x: Tensor) -> Tokens:
        """What the quantizer made of an input x (B, C, ...)."""
        size = torch.tensor(x.shape[2:], device=x.device).expand(len(x), -1)
        return Tokens(
            indices=quantized.indices,
            codebook_sizes=self.spec.codebook_sizes[: quantized.indices.shape[-1]],
            size=size,
            latents=quantized.latents if self.spec.continuous else None,
            scales=self.spec.scales if sum(self.spec.scales) == quantized.indices.shape[1] else (),
            distinct_scales=self.spec.distinct_scales,
            order=self.spec.order,
        )

    def decode(
        self,
        tokens: Tokens,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: float | Guidance | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The signal that codes stand for.

        Args:
            tokens: as `encode` returns them, possibly shortened by `Tokens.keep`.
            steps: sampling steps, for families with an iterative decoder only.
            generator: noise source, for families with a stochastic decoder only.
            guidance: how strongly the code is followed (1: as trained), for families whose decoder was also trained
                without a code.
            noise: what an iterative decoder starts from, in place of a draw.

        Returns:
            (B, C, ...) of the size recorded in `tokens.size` (else of `spec.input_shape`), not clamped.

        Raises:
            ValueError: the codes do not belong to this tokenizer, or `steps`, `guidance` or `noise` is given to a
                one-step decoder.
        """
        self.check_one_step(steps=steps, guidance=guidance, noise=noise)
        return self.decode_tokens(tokens)

    def check_one_step(self, **options: object) -> None:
        """Raise ValueError if an option of iterative decoders is given to this one."""
        for option, value in options.items():
            if value is not None:
                shown = f"{option}={tuple(value.shape)}" if isinstance(value, Tensor) else f"{option}={value}"
                raise ValueError(f"{type(self).__name__} decodes in one step; {shown} has no meaning, leave it out")

    def decode_tokens(self, tokens: Tokens) -> Tensor:
        """What `decode` does when its options are checked; for families whose decoder reads more than lengths."""
        return self.decode_latents(self.code_latents(tokens), tokens.lengths, self.output_size(tokens))

    def code_latents(self, tokens: Tokens) -> Tensor:
        """The latents (B, n, D) of codes, as the decoder reads them.

        Raises:
            ValueError: the codes do not belong to this tokenizer.
        """
        self.check_tokens(tokens)
        latents = tokens.latents if self.spec.continuous else self.quantizer.lookup(tokens.indices)
        if latents is None:
            raise ValueError(f"{type(self).__name__} is continuous: tokens need latents (B, N, {self.spec.dim})")
        return latents.to(self.dtype)

    def pad(self, x: Tensor) -> Tensor:
        """Extend an input of any size to whole tokens by repeating its border; `decode` cuts it back."""
        step = self.spec.downsample
        if not self.spec.any_size or step is None:
            return x
        margins = [(-side) % step for side in x.shape[2:]]
        if not any(margins):
            return x
        padding = [value for margin in reversed(margins) for value in (0, margin)]
        return nn.functional.pad(x, padding, mode="replicate")

    def output_size(self, tokens: Tokens) -> tuple[int, ...]:
        """Size of what a batch decodes to, without batch and channels."""
        if tokens.size is None:
            return self.spec.input_shape[1:]
        sizes = {tuple(row) for row in tokens.size.tolist()}
        if len(sizes) != 1:
            raise ValueError(f"one batch decodes to one size, got {sorted(sizes)}; decode these items one at a time")
        return sizes.pop()

    def check_widths(self) -> None:
        """Raise ValueError unless the encoder's width is the quantizer's, and the quantizer's is the decoder's."""
        encoder, quantizer, decoder = self.encoder, self.quantizer, self.decoder
        if (encoder.dim, quantizer.dim) != (quantizer.input_dim, decoder.dim):
            raise ValueError(
                f"widths differ: encoder.dim={encoder.dim} in front of a quantizer that reads {quantizer.input_dim}, "
                f"quantizer.dim={quantizer.dim} in front of decoder.dim={decoder.dim}"
            )

    def check_input(self, x: Tensor, *, finite: bool = False) -> None:
        """Raise ValueError unless x fits `spec`, and holds neither NaN nor infinity where that is asked for."""
        name, want = type(self).__name__, self.spec.input_shape
        if not x.is_floating_point():
            raise ValueError(f"{name} expects floats in [-1, 1], got {x.dtype}; use x.float() / 127.5 - 1 for uint8")
        if x.ndim != len(want) + 1 or not self.takes(tuple(x.shape[1:])):
            shape = ("B", want[0], *("any" for _ in want[1:])) if self.spec.any_size else ("B", *want)
            expected = ", ".join(str(side) for side in shape)
            raise ValueError(f"{name} expects input ({expected}), got {tuple(x.shape)}; resize or crop it first")
        if finite and not torch.isfinite(x).all():
            raise ValueError(f"{name} expects finite input in [-1, 1]; got NaN or infinity")

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an item may have this shape, which has as many axes as `spec.input_shape`."""
        want = self.spec.input_shape
        return (shape[0] == want[0] and min(shape[1:]) > 0) if self.spec.any_size else shape == want

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise ValueError unless tokens fit `spec`."""
        name, spec = type(self).__name__, self.spec
        if tokens.codebook_sizes != spec.codebook_sizes:
            raise ValueError(
                f"{name} has codebooks {spec.codebook_sizes}, the tokens come from {tokens.codebook_sizes}"
            )
        if spec.any_size:
            return
        count = tokens.num_tokens
        if count > spec.num_tokens or (count < spec.num_tokens and not spec.flexible):
            wanted = f"1 to {spec.num_tokens}" if spec.flexible else str(spec.num_tokens)
            raise ValueError(f"{name} decodes {wanted} tokens, got {count}")
        if tokens.lengths is not None and not spec.flexible and bool((tokens.lengths != spec.num_tokens).any()):
            raise ValueError(f"{name} is not flexible: it decodes exactly {spec.num_tokens} tokens, not a prefix")

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU if there are none."""
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the encoder's and decoder's parameters, float32 if there are none; quantizers stay float32."""
        parameters = chain(self.encoder.parameters(), self.decoder.parameters())
        return next((parameter.dtype for parameter in parameters), torch.float32)

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Our recipe node for the reference implementation's own config."""
        raise ValueError(f"{cls.__name__} has no reference implementation to load from")

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reference's state dict under our keys."""
        return dict(state)

    @classmethod
    def from_reference(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """Build from the reference's own config and weights, strictly.

        Raises:
            ValueError: the config describes something this family cannot be.
            RuntimeError: keys are missing or left over.
        """
        from zoo.store.build import build
        from zoo.store.weights import load_strict

        try:
            node = cls.reference_recipe(config)
        except KeyError as error:
            raise ValueError(f"{cls.__name__}: the reference config has no {error}; is it of this family?") from error
        tokenizer = build(node, device="meta")
        if not isinstance(tokenizer, cls):
            raise TypeError(f"{cls.__name__}.reference_recipe built a {type(tokenizer).__name__}")
        load_strict(tokenizer, cls.convert(state), source=f"{cls.__name__} reference state")
        return tokenizer.eval()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json`, `model.safetensors` and `README.md`; `zoo.load(folder)` reads them back."""
        from zoo.store.save import save_pretrained

        return save_pretrained(self, folder)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the saved folder to a Hugging Face hub repository; returns its address."""
        from zoo.store.save import push_to_hub

        return push_to_hub(self, repo_id, private=private, token=token)
