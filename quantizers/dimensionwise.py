"""DimensionWise: continuous latents to discrete ones after training, channel by channel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Quantized, Quantizer

__all__ = ["DimensionWise"]


class DimensionWise(Quantizer):
    """Post-training quantization of each channel to the bins of a Gaussian: TokenBridge (arXiv 2503.16430).

    The range [low, high] is mapped onto [-span, span] standard deviations and cut into L = 2^bits bins of equal
    probability under N(0, 1); every bin is represented by its mean:

        b_i = quantile(i / L), b_0 = -span, b_L = span
        c_i = (phi(b_i) - phi(b_i+1)) / (Phi(b_i+1) - Phi(b_i)),    index = argmin_i |x - c_i|

    Meant for the latents of a trained continuous tokenizer, `KL` in eval above all. There is nothing to learn and no
    loss; each channel is a column of its own. The closed forms are computed in float64.

    Args:
        dim: width of the latents.
        bits: of each channel, 1 to 16.
        low: lower end of the range; values beyond it become the outermost code.
        high: upper end of the range.
        span: standard deviations between the middle and an end of the range.

    Attributes:
        codebook: (2^bits,) float32 buffer, ascending: the means c_i mapped back to [low, high].

    Raises:
        ValueError: dim < 1, bits outside [1, 16], low >= high, or a span that leaves a bin empty.
    """

    codebook: Tensor

    def __init__(self, dim: int, bits: int = 6, *, low: float = -5.0, high: float = 5.0, span: float = 3.0) -> None:
        super().__init__()
        if dim < 1 or not 1 <= bits <= 16:
            raise ValueError(f"DimensionWise expects dim >= 1 and 1 to 16 bits, got dim={dim}, bits={bits}")
        if low >= high:
            raise ValueError(f"DimensionWise expects low < high, got {low} and {high}; e.g. low=-5, high=5")
        self.dim = dim
        self.bits = bits
        self.codebook_sizes = (2**bits,) * dim
        self.low = low
        self.high = high
        self.span = span
        boundaries = self.boundaries
        if not bool((boundaries.diff() > 0).all()):
            least = -float(boundaries[1])
            raise ValueError(f"DimensionWise of {bits} bits expects a span above {least:.3f}, got {span}")
        self.register_buffer("codebook", torch.empty(2**bits))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put the codes in place."""
        values = (self.centroids + self.span) / (2 * self.span) * (self.high - self.low) + self.low
        with torch.no_grad():
            self.codebook.copy_(values)

    @property
    def boundaries(self) -> Tensor:
        """(2^bits + 1,) float64 on the CPU, ends of the bins b_i in standard deviations, ascending."""
        steps = torch.arange(1, 2**self.bits, dtype=torch.float64, device="cpu") / 2**self.bits
        return F.pad(F.pad(torch.special.ndtri(steps), (1, 0), value=-self.span), (0, 1), value=self.span)

    @property
    def centroids(self) -> Tensor:
        """(2^bits,) float64 on the CPU, means c_i of the bins in standard deviations, ascending."""
        ends = self.boundaries
        density = (-ends.square() / 2).exp() / math.sqrt(2 * math.pi)
        return -density.diff() / torch.special.ndtr(ends).diff()

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, dim) values; the loss is 0."""
        z = self._check_latents(z, mask)
        middles = (self.codebook[1:] + self.codebook[:-1]) / 2
        indices = torch.bucketize(z.detach().contiguous(), middles)
        return Quantized(self._estimate(z, self._codes(indices)), indices, z.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        """Values (B, N, dim) of indices (B, N, dim).

        Raises:
            ValueError: wrong shape or dtype, or an index outside [0, 2^bits).
        """
        return self._codes(self._check_indices(indices))

    def _codes(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.codebook[:, None])[..., 0]

    def extra_repr(self) -> str:
        return f"dim={self.dim}, bits={self.bits}, low={self.low}, high={self.high}, span={self.span}"
