"""The decoder half of a KL autoencoder, as diffusers builds it (arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

__all__ = ["KLDecoder"]


class KLDecoder(nn.Module):
    """Latents on a grid to images: the decoder of diffusers' `AutoencoderKL` behind its 1x1 convolution.

    Args:
        latent_channels: C of the latents.
        channels: width of each level as in `encoders.KLEncoder`, finest first.
        depth: residual blocks per level of the encoder; the decoder has one more.
        groups: of the group norms.
        middle_attention: whether the lowest level attends.
        latent_conv: whether a 1x1 convolution comes first.
        out_channels: of the output.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        channels: Sequence[int],
        depth: int = 2,
        groups: int = 32,
        middle_attention: bool = True,
        latent_conv: bool = True,
        out_channels: int = 3,
    ) -> None:
        from diffusers.models.autoencoders.vae import Decoder  # slow to import

        super().__init__()
        self.dim = latent_channels
        self.downsample = 2 ** (len(channels) - 1)
        self.latent = nn.Conv2d(self.dim, self.dim, 1) if latent_conv else nn.Identity()
        self.body = Decoder(
            in_channels=latent_channels,
            out_channels=out_channels,
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=depth,
            norm_num_groups=groups,
            mid_block_add_attention=middle_attention,
        )

    def forward(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Latents (B, h * w, C) in raster order, grid (h, w) -> images (B, 3, H, W) around [-1, 1]."""
        h, w = grid
        return self.body(self.latent(rearrange(latents, "b (h w) c -> b c h w", h=h, w=w)))
