"""Grid tokenizers: one token per patch of the image, any size."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from quantizers import MultiScaleVQ, Quantizer
from zoo.spec import TokenizerSpec
from zoo.tokenizer import Tokenizer

__all__ = ["GridTokenizer"]


class GridTokenizer(Tokenizer):
    """A fully convolutional encoder, any quantizer, and a fully convolutional decoder (VQGAN, arXiv 2012.09841).

    Tokens are the cells of an (H / f, W / f) grid in raster order, f being the encoder's `downsample`. Sides that are
    no multiple of f are extended by repeating the border, and cut back after decoding.

    Args:
        encoder: images (B, 3, H, W) to latents (B, h * w, D); has `dim` and `downsample`.
        quantizer: reads `encoder.dim` channels. With `quantizers.MultiScaleVQ` tokens are those of its scales, coarse
            to fine, for images of `image_size` alone.
        decoder: latents (B, h * w, D) and the grid (h, w) to images; has `dim` and `downsample`.
        image_size: side of a typical image, pixels.

    Raises:
        ValueError: widths or downsampling of the parts differ.
    """

    encoder: Any
    quantizer: Quantizer
    decoder: Any

    def __init__(self, encoder: Any, quantizer: Quantizer, decoder: Any, image_size: int = 256) -> None:
        super().__init__(encoder, quantizer, decoder)
        self.check_widths()
        if encoder.downsample != decoder.downsample:
            raise ValueError(f"encoder.downsample={encoder.downsample}, decoder.downsample={decoder.downsample}")
        cells = (-(-image_size // encoder.downsample)) ** 2
        scales = quantizer.scales if isinstance(quantizer, MultiScaleVQ) else ()
        if scales and scales[-1] != cells:
            raise ValueError(f"the last of the scales has {scales[-1]} cells, images of {image_size} pixels {cells}")
        self.spec = TokenizerSpec(
            modality="image",
            input_shape=(3, image_size, image_size),
            codebook_sizes=quantizer.codebook_sizes,
            dim=quantizer.dim,
            num_tokens=sum(scales) or cells,
            order="scales" if scales else "raster",
            scales=scales,
            any_size=not scales,
            downsample=encoder.downsample,
        )

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """(B, h * w, D) -> (B, 3, *size).

        Raises:
            ValueError: the number of latents does not belong to an image of that size.
        """
        step = self.encoder.downsample
        grid = (-(-size[0] // step), -(-size[1] // step))
        if latents.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"an image of {size} has {grid[0]} x {grid[1]} tokens, got {latents.shape[1]}")
        return self.decoder(latents.contiguous(), grid)[..., : size[0], : size[1]]
