"""Mimi's encoder: causal convolutions, a causal transformer, and a learnt halving of the rate (arXiv 2410.00037)."""

from __future__ import annotations

from torch import Tensor, nn

from encoders.layers.causal_attention import CausalTransformer, Rotary
from encoders.layers.conv1d import Conv1d
from encoders.layers.streaming import Stream
from encoders.seanet import SEANetEncoder

__all__ = ["MimiEncoder"]


class MimiEncoder(nn.Module):
    """A convolutional encoder whose latents attend to the past and are then thinned out (arXiv 2410.00037, Sec. 3.3).

    The last convolution, without bias and twice as wide as its stride, starts by repeating the first latent.

    Args:
        seanet: sound to latents of width W, causal; Mimi's are 25 a second.
        dim: D of the latents; W by default.
        depth: blocks of the transformer.
        heads: of a block.
        hidden: width of the MLPs.
        context: latents that one sees in a block, itself included; 10 s in Mimi.
        stride: latents of `seanet` in one of the result.
        layer_scale: start of the scales of what a block adds.
        theta: longest wavelength of the rotary positions over 2 pi.
        rotary: their layout, "pairs" or "halves".

    Attributes:
        hop_length: samples of a latent.
        context: samples before and behind its own hop that a latent depends on; None if unbounded.

    Raises:
        ValueError: `seanet` is not causal.
    """

    causal = True

    def __init__(
        self,
        seanet: SEANetEncoder,
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
            raise ValueError("MimiEncoder expects a causal seanet; set causal=True, norm=False, bidirectional=False")
        width = seanet.dim
        self.dim = width if dim is None else dim
        self.channels, self.hop_length = seanet.channels, seanet.hop_length * stride
        self.seanet = seanet
        self.transformer = CausalTransformer(
            width, depth, heads, hidden, context, layer_scale=layer_scale, theta=theta, rotary=rotary
        )
        self.down = Conv1d(width, self.dim, 2 * stride, stride=stride, bias=False, causal=True, edges="replicate")

    @property
    def context(self) -> tuple[int, int] | None:
        """See the class."""
        inner, frames = self.seanet.context, self.down.before + self.transformer.reach
        return None if inner is None else (inner[0] + frames * self.seanet.hop_length, 0)

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, channels, T) in [-1, 1], T a multiple of `hop_length` but in a stream.
            lengths: (B,) int64 real samples of each item; what stands behind has no effect, with or without them.
            stream: continues a sound.

        Returns:
            (B, T / hop_length, dim).
        """
        x = self.transformer(self.seanet(x, stream=stream), stream)
        return self.down(x.mT, stream=stream).mT
