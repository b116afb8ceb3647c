"""FlexTok: an image as 1 to 256 ordered tokens, painted by a flow model (arXiv 2502.13967)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from decoders import FlexTokDecoder, RectifiedFlow
from decoders.flow import Guidance, Noised, as_guidance, integrate, time_grid
from decoders.flow.samplers import METHODS, Method
from encoders import FlexTokEncoder
from quantizers import KL, Quantizer
from zoo.families.dropout import NestedDropout
from zoo.families.flextok_reference import convert, reference_recipe
from zoo.families.grid import GridTokenizer
from zoo.spec import TokenizerSpec
from zoo.tokenizer import Reconstruction, Tokenizer
from zoo.tokens import Tokens

__all__ = ["FlexTok"]

SEED = 0  # of the draws that a call without a generator makes
CHUNK = 32  # times whose modulations are computed together


class FlexTok(Tokenizer):
    """Registers read the latents of a VAE (or pixels), and a rectified flow paints what any prefix of them says.

    In training, `forward` shows the decoder one point on the path from data to noise, with the code cut by `dropout`
    and sometimes left out. `Reconstruction.extras` then holds "velocity" and "target" (B, C, h, w), and `output` is the
    clean map that the predicted velocity points to: latents where there is a VAE. In eval mode `output` is sampled as
    `decode` does, and "velocity" and "target" belong to a fixed draw of times and noise.

    All draws of eval mode come from a fixed seed unless a generator is given, one draw for every item, so that encoding
    and decoding are functions of their input, whatever else is in the batch.

    Args:
        encoder: reads maps of `decoder.channels`; N tokens, `quantizer.input_dim` wide.
        quantizer: any.
        decoder: reads N tokens, `quantizer.dim` wide.
        vae: a continuous grid tokenizer whose latents are encoded and painted, kept frozen; None for pixels.
        image_size: side of the square images; smaller ones are taken too, if their sides are whole patches and the
            parts have no levels.
        latent_scale: factor on the latents of the VAE.
        latent_shift: subtracted from the latents before that.
        sample_posterior: encode a draw from the VAE's posterior instead of its mean, as the published weights were
            trained. `tokenizer.sample_posterior = False` switches it off.
        flow: path, times and what the network predicts.
        dropout: how many tokens training keeps.
        condition_dropout: share of training items that lose their code, for guidance.
        steps: of the sampler, where `decode` is not told.
        guidance: where `decode` is not told; None or 1 for none.
        sampler: "euler" or "heun".

    Raises:
        ValueError: parts that do not fit each other, or a value outside its range.
    """

    iterative = True
    encoder: FlexTokEncoder
    quantizer: Quantizer
    decoder: FlexTokDecoder

    def __init__(
        self,
        encoder: FlexTokEncoder,
        quantizer: Quantizer,
        decoder: FlexTokDecoder,
        vae: GridTokenizer | None = None,
        image_size: int = 256,
        latent_scale: float = 1.0,
        latent_shift: float = 0.0,
        sample_posterior: bool = True,
        flow: RectifiedFlow | None = None,
        dropout: NestedDropout | None = None,
        condition_dropout: float = 0.2,
        steps: int = 25,
        guidance: float | Guidance | None = None,
        sampler: Method = "euler",
    ) -> None:
        super().__init__(encoder, quantizer, decoder)
        if vae is not None and not isinstance(vae.quantizer, KL):
            raise ValueError(f"vae needs continuous latents (quantizers.KL), got {type(vae.quantizer).__name__}")
        self.vae = vae
        channels = 3 if vae is None else vae.spec.dim
        self.downsample: int = 1 if vae is None else vae.encoder.downsample
        self.step = encoder.patch_size * self.downsample
        checks = {
            "channels": (channels, encoder.channels, decoder.channels),
            "tokens": (encoder.num_tokens, decoder.num_tokens),
            "patch sizes": (encoder.patch_size, decoder.patch_size),
            "grids": (encoder.grid, decoder.grid),
            "levels": (encoder.levels, decoder.levels),
            "widths in front of the quantizer": (encoder.dim, quantizer.input_dim),
            "widths behind it": (quantizer.dim, decoder.dim),
        }
        for what, values in checks.items():
            if len(set(values)) != 1:
                raise ValueError(f"FlexTok: {what} differ: {' and '.join(str(value) for value in values)}")
        if image_size % self.step or image_size // self.step > min(encoder.grid):
            raise ValueError(
                f"image_size is a multiple of {self.step}, at most {min(encoder.grid) * self.step}; got {image_size}"
            )
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout lies in [0, 1), got {condition_dropout}")
        if sampler not in METHODS:
            raise ValueError(f"sampler is one of {', '.join(METHODS)}, got {sampler!r}")
        self.latent_scale, self.latent_shift, self.sample_posterior = latent_scale, latent_shift, sample_posterior
        self.flow, self.dropout = flow or RectifiedFlow(), dropout or NestedDropout("pow2")
        self.condition_dropout = condition_dropout
        self.steps, self.guidance, self.sampler = steps, as_guidance(guidance), sampler
        self.spec = TokenizerSpec(
            modality="image",
            input_shape=(3, image_size, image_size),
            codebook_sizes=quantizer.codebook_sizes,
            dim=quantizer.dim,
            num_tokens=encoder.num_tokens,
            order="coarse_to_fine",
            flexible=True,
        )
        if vae is not None:
            vae.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FlexTok:
        """The VAE stays in eval mode."""
        super().train(mode)
        if self.vae is not None:
            self.vae.eval()
        return self

    @property
    def features(self) -> dict[str, int]:
        """The decoder's patches after some blocks: "decoder.1", "decoder.2", ..."""
        return {f"decoder.{name}": width for name, width in self.decoder.features.items()}

    @torch.no_grad()
    def adopt(self, vae: GridTokenizer) -> None:
        """Copy the weights of a VAE that was trained or published apart.

        Raises:
            ValueError: this tokenizer has no VAE, or one of another shape.
        """
        if self.vae is None:
            raise ValueError("this FlexTok paints pixels: it has no VAE to give weights to")
        try:
            self.vae.load_state_dict(vae.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the VAE does not fit: {error}") from error

    def to_map(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Of images (B, 3, H, W) in [-1, 1], what is encoded and painted: (B, C, h, w), latents or the images.

        Args:
            generator: source of the posterior's noise; None for the fixed draw, or the global source in training.
        """
        if self.vae is None:
            return x
        assert isinstance(self.vae.quantizer, KL)
        mean, logvar = self.vae.quantizer.posterior(self.vae.encoder(x.to(self.dtype)))
        if self.sample_posterior:
            noise = torch.randn_like(mean) if self.training else draw(mean, generator)
            mean = mean + (logvar / 2).exp() * noise
        latents = (mean - self.latent_shift) * self.latent_scale
        return rearrange(latents, "b (h w) c -> b c h w", h=x.shape[2] // self.downsample)

    def to_image(self, clean: Tensor) -> Tensor:
        """Images (B, 3, H, W) of maps (B, C, h, w); not clamped."""
        if self.vae is None:
            return clean
        grid = (clean.shape[2], clean.shape[3])
        latents = rearrange(clean / self.latent_scale + self.latent_shift, "b c h w -> b (h w) c")
        return self.vae.decoder(latents.to(self.dtype), grid)

    def forward(self, x: Tensor) -> Reconstruction:
        """See the class.

        Args:
            x: (B, 3, H, W) in [-1, 1].
        """
        self.check_input(x)
        clean = self.to_map(x)
        quantized = self.quantizer(self.encoder(clean.to(self.dtype)))
        latents = quantized.latents.to(self.dtype)
        extras: dict[str, Tensor] = {}
        if self.training:
            lengths = self.dropout.draw(len(x), latents.shape[1]).to(x.device, non_blocking=True)
            dropped = torch.rand(len(x), device=x.device) < self.condition_dropout
            registers = self.decoder.training_registers(latents, lengths, dropped)
            noised = self.flow.draw(clean)
        else:
            lengths = None
            registers = self.decoder.training_registers(latents)
            noised = self._fixed_draw(clean)
        modulations = self.decoder.modulations(noised.times)
        (shown,) = self.decoder(noised.noised, modulations, registers, watch=self.watch("decoder", extras))
        extras["velocity"] = self.flow.velocity(shown, noised.noised, noised.times)
        extras["target"] = noised.target
        if self.training:
            output = self.flow.clean(extras["velocity"], noised.noised, noised.times)
        else:
            output = self.decode_latents(latents, None, tuple(x.shape[2:]))
        return Reconstruction(output, quantized, lengths, extras)

    def encode(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tokens:
        """Codes of a batch, as `Tokenizer.encode`.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            generator: source of the posterior's noise where `sample_posterior`; None for the fixed draw.
        """
        self.check_input(x, finite=True)
        return self.as_tokens(self.quantizer(self.encoder(self.to_map(x, generator).to(self.dtype))), x)

    def decode(
        self,
        tokens: Tokens,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: float | Guidance | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Paint the images that codes stand for.

        Args:
            tokens: as `encode` returns them, possibly shortened by `Tokens.keep`, each item to a length of its own.
            steps: of the sampler; None for `self.steps`.
            generator: source of the noise; None for the fixed draw.
            guidance: a scale for adaptive projected guidance, or a `decoders.ClassifierFree` or `AdaptiveProjected`; 1
                is none, None is `self.guidance`.
            noise: (B or 1, C, h, w) to start from, in place of a draw.

        Returns:
            (B, 3, H, W), not clamped.

        Raises:
            ValueError: the codes do not belong to this tokenizer, steps below 1, or noise of another shape.
        """
        latents, size = self.code_latents(tokens), self.output_size(tokens)
        clean = self.sample(
            latents, tokens.lengths, size, steps=steps, generator=generator, guidance=guidance, noise=noise
        )
        return self.to_image(clean)

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """(B, n, D) -> (B, 3, *size), with the settings of this tokenizer and the fixed draw."""
        return self.to_image(self.sample(latents, lengths, size))

    def sample(
        self,
        latents: Tensor,
        lengths: Tensor | None,
        size: tuple[int, ...],
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: float | Guidance | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The map (B, C, h, w) that the flow paints for `latents` (B, n, D) and `lengths` (B,); else as `decode`."""
        batch, shape = len(latents), (self.decoder.channels, *(side // self.downsample for side in size))
        if noise is None:
            noise = draw(latents.new_empty(batch, *shape), generator)
        elif noise.ndim != 4 or noise.shape[1:] != shape or len(noise) not in (1, batch):
            raise ValueError(f"noise for {batch} images of {size} is {(batch, *shape)}, got {tuple(noise.shape)}")
        strength = self.guidance if guidance is None else as_guidance(guidance)
        grid = time_grid(self.steps if steps is None else steps)
        streams = [self.decoder.registers(latents, lengths)]
        if strength is not None:
            streams.append(self.decoder.null(batch))
            rule = strength.start()
        times = torch.tensor(grid, device=latents.device)

        @lru_cache(maxsize=2)
        def modulations(chunk: int) -> list[Tensor]:
            return self.decoder.modulations(times[chunk * CHUNK : (chunk + 1) * CHUNK])

        def velocity(x: Tensor, i: int) -> Tensor:
            at = [table[i % CHUNK : i % CHUNK + 1] for table in modulations(i // CHUNK)]
            outputs = [self.flow.velocity(output, x, grid[i]) for output in self.decoder(x, at, *streams)]
            return outputs[0] if strength is None else rule(outputs[0], outputs[1])

        return integrate(velocity, noise.to(latents.device).float().expand(batch, *shape), grid, self.sampler)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Images whose sides are whole patches, at most as many as the position tables have."""
        sides = [divmod(side, self.step) for side in shape[1:]]
        within = all(0 < count <= limit for (count, _), limit in zip(sides, self.encoder.grid, strict=True))
        if self.encoder.levels is not None:
            within = tuple(count for count, _ in sides) == self.encoder.grid
        return shape[0] == 3 and within and not any(rest for _, rest in sides)

    def _fixed_draw(self, clean: Tensor) -> Noised:
        """Times spread evenly over the batch and the fixed noise: a loss that can be compared from call to call."""
        source = torch.Generator().manual_seed(SEED)
        times = self.flow.draw_times(len(clean), generator=source, device=clean.device)
        return self.flow.noise(clean, draw(clean), times)

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of apple/ml-flextok; see `zoo.families.flextok_reference`."""
        return reference_recipe(config)

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of apple/ml-flextok -> ours."""
        return convert(state)


def draw(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise shaped like (B, ...), float32; without a generator the same fixed draw for every item."""
    if generator is None:
        generator, shape = torch.Generator().manual_seed(SEED), like.shape[1:]
        return torch.randn(shape, generator=generator).to(like.device).expand(like.shape)
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like.device)
