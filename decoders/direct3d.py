"""Direct3D's decoder: a triplane painted by an image decoder that sees the three planes side by side."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from decoders.triplane import TriplaneHead

__all__ = ["RolloutTriplane"]


class RolloutTriplane(nn.Module):
    """Latents of three small planes to a triplane by diffusers' 2-D decoder, then values by an MLP (arXiv 2405.14832).

    The planes lie side by side in one map, r rows and 3 r columns, so that at the seams the convolutions, and in the
    middle the attention, mix them. Beyond [-1, 1] planes read as zeros.

    Args:
        dim: channels of the latents.
        resolution: r of a plane of latents.
        width: channels behind the first 1x1 convolution.
        channels: width of each level of the decoder, finest first; each but the last doubles the resolution.
        plane_channels: channels of the triplane.
        hidden: width of the MLP.
        depth: its linear layers.
        middle_attention: whether the lowest level attends.
    """

    def __init__(
        self,
        *,
        dim: int,
        resolution: int = 32,
        width: int = 768,
        channels: Sequence[int] = (128, 256, 512, 512),
        plane_channels: int = 32,
        hidden: int = 64,
        depth: int = 5,
        middle_attention: bool = True,
    ) -> None:
        from diffusers.models.autoencoders.vae import Decoder  # slow to import

        super().__init__()
        self.dim = dim
        self.resolution = resolution
        self.num_tokens = 3 * resolution**2
        self.latent = nn.Conv2d(dim, width, 1)
        self.body = Decoder(
            in_channels=width,
            out_channels=plane_channels,
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=2,
            mid_block_add_attention=middle_attention,
        )
        self.head = TriplaneHead(plane_channels, hidden, depth)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, 3 r^2, D), plane by plane in raster order, to planes (B, 3, C, R, R), R = r 2^(levels - 1)."""
        rolled = rearrange(latents, "b (p h w) d -> b d h (p w)", p=3, h=self.resolution)
        return rearrange(self.body(self.latent(rolled)), "b c h (p w) -> b p c h w", p=3)

    def query(self, planes: Tensor, queries: Tensor) -> Tensor:
        """Logits (B, Q) at points (B, Q, 3)."""
        return self.head(planes, queries)
