"""Mimi's decoder: a learnt doubling of the rate, a causal transformer, and causal convolutions (arXiv 2410.00037)."""

from __future__ import annotations

from torch import Tensor, nn

from decoders.seanet import SEANetDecoder
from encoders.layers.causal_attention import CausalTransformer, Rotary
from encoders.layers.conv1d import TransposedConv1d
from encoders.layers.streaming import Stream

__all__ = ["MimiDecoder"]


class MimiDecoder(nn.Module):
    """The mirror image of `encoders.MimiEncoder` (arXiv 2410.00037, Sec. 3.3).

    The rate is raised by a transposed convolution of each channel on its own, without bias.

    Args:
        seanet: latents of width W to sound, causal.
        dim: D of the latents; a linear map takes them to W where it is not W.
        depth, heads, hidden, context, layer_scale, theta, rotary: of the transformer, as in the encoder.
        stride: latents that `seanet` gets for each one.

    Attributes:
        hop_length: samples of a latent.
        context: latents before and behind its own that a sample depends on; None if unbounded.

    Raises:
        ValueError: `seanet` is not causal.
    """

    causal = True

    def __init__(
        self,
        seanet: SEANetDecoder,
        *,
        dim: int | None = None,
        depth: int = 8,
        heads: int = 8,
        hidden: int = 2048,
        context: int = 250,
        stride: int = 2,
        layer_scale: float = 0.01,
        theta: float = 10000.0,
        rotary: Rotary = "pairs",
    ) -> None:
        super().__init__()
        if not seanet.causal:
            raise ValueError("MimiDecoder expects a causal seanet; set causal=True and norm=False")
        width = seanet.dim
        self.dim = width if dim is None else dim
        self.channels, self.hop_length = seanet.channels, seanet.hop_length * stride
        self.project = nn.Linear(self.dim, width) if self.dim != width else None
        self.up = TransposedConv1d(width, width, 2 * stride, stride=stride, groups=width, bias=False, causal=True)
        self.transformer = CausalTransformer(
            width, depth, heads, hidden, context, layer_scale=layer_scale, theta=theta, rotary=rotary
        )
        self.seanet = seanet

    @property
    def context(self) -> tuple[int, int] | None:
        """See the class."""
        inner = self.seanet.context
        if inner is None:
            return None
        return self.up.reach[0] - (-(inner[0] + self.transformer.reach) // self.up.step), 0

    def forward(self, latents: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """Decode.

        Args:
            latents: (B, N, dim).
            lengths: (B,) int64 real latents of each item; what stands behind has no effect, with or without them.
            stream: continues a sound.

        Returns:
            (B, channels, N * hop_length).
        """
        x = latents if self.project is None else self.project(latents)
        x = self.transformer(self.up(x.mT, stream=stream).mT, stream)
        return self.seanet(x, stream=stream)
