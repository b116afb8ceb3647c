"""The encoder half of a KL autoencoder, as diffusers builds it (arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

__all__ = ["KLEncoder"]


class KLEncoder(nn.Module):
    """Images to means and log-variances on a grid: the encoder of diffusers' `AutoencoderKL` with its 1x1 convolution.

    Args:
        latent_channels: C of the latents.
        channels: width of each level; all but the last are followed by a halving of the resolution.
        depth: residual blocks per level.
        groups: of the group norms.
        middle_attention: whether the lowest level attends.
        moments_conv: whether a 1x1 convolution follows.
        in_channels: of the input.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        channels: Sequence[int],
        depth: int = 2,
        groups: int = 32,
        middle_attention: bool = True,
        moments_conv: bool = True,
        in_channels: int = 3,
    ) -> None:
        from diffusers.models.autoencoders.vae import Encoder  # slow to import

        super().__init__()
        self.dim = 2 * latent_channels
        self.downsample = 2 ** (len(channels) - 1)
        self.body = Encoder(
            in_channels=in_channels,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=depth,
            norm_num_groups=groups,
            double_z=True,
            mid_block_add_attention=middle_attention,
        )
        self.moments = nn.Conv2d(self.dim, self.dim, 1) if moments_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, h * w, 2 C) in raster order, means first."""
        return rearrange(self.moments(self.body(x)), "b c h w -> b (h w) c")
