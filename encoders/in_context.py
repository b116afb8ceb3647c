"""VAT's encoder: latent tokens and point tokens in one transformer, of which the latent ones are kept."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from encoders.layers.attention import Transformer, init_weights
from encoders.layers.curve import curve_points, hilbert_index
from encoders.layers.points import FourierPoints, take_points

__all__ = ["InContextEncoder"]

GAIN = 16.0  # a sixteenth of the points within reach of a place make it stand out
CURVE_BITS = 5  # of an axis, for the order of points


class InContextEncoder(nn.Module):
    """Learned tokens that attend to a cloud and to each other in the same layers (VAT, arXiv 2412.02202).

    There is no cross-attention: latent tokens and point tokens form one sequence. What a point says is its Fourier
    features and its own features, through a small MLP; where it is, a linear map of the Fourier features alone.

    With `group` > 1 a token stands for so many points that follow each other along a Hilbert curve: the mean of where
    they are plus the largest of what they say, in each channel. Published models have a token for every point. The
    order of the points is without influence either way.

    `place=True` starts close to something that works. Each latent token begins as the map of a point of its own on the
    curve, so that neighbours in the sequence are neighbours in space, and keys begin equal to queries, so that every
    token first attends to what is near it. Both are learned from there.

    Args:
        dim: width D of a latent.
        num_tokens: N.
        features: columns of a point beside x, y, z: 3 for a normal.
        width: of the transformer.
        depth: its blocks.
        heads: a divisor of the width.
        bands: frequencies of the Fourier features, 2^0, 2^1, ... without pi.
        group: points per token.
        place: see above; False starts from noise.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_tokens: int,
        features: int = 3,
        width: int = 768,
        depth: int = 8,
        heads: int = 12,
        bands: int = 8,
        group: int = 1,
        place: bool = False,
    ) -> None:
        super().__init__()
        if group < 1:
            raise ValueError(f"group must be at least 1, got {group}")
        self.dim = dim
        self.num_tokens = num_tokens
        self.channels = 3 + features
        self.group = group
        self.fourier = FourierPoints(bands, pi=False, raw="first")
        self.place = nn.Linear(self.fourier.dim, width)
        self.points = nn.Sequential(nn.Linear(self.fourier.dim + features, width), nn.GELU(), nn.Linear(width, width))
        self.tokens = nn.Parameter(torch.randn(num_tokens, width) * 0.02)
        self.blocks = Transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        self.latents = nn.Linear(width, dim)
        self.blocks.apply(init_weights)
        self.places: nn.Parameter | None = None
        if place:
            self.places = nn.Parameter(curve_points(num_tokens))
            self.reach = nn.Parameter(torch.full((num_tokens,), num_tokens ** (-1 / 3)))
            with torch.no_grad():
                self.tokens.copy_(self.place(self.fourier(self.places)))

    def forward(self, x: Tensor) -> Tensor:
        """Clouds (B, P, 3 + features) in [-1, 1]^3 to latents (B, N, D)."""
        x = grouped(x, self.group) if self.group > 1 else x[:, :, None]
        where = self.fourier(x[..., :3]).to(x.dtype)
        said = self.points(torch.cat([where, x[..., 3:]], dim=-1)).amax(2)
        points = said + self.place(where.mean(2))
        tokens = self.tokens.expand(len(x), -1, -1)
        if self.places is not None:
            apart = (x[..., :3].mean(2)[:, None] - self.places[:, None]).square().sum(-1)
            near = (-0.5 * apart / self.reach[:, None] ** 2).exp()
            tokens = tokens + near @ points * (GAIN / points.shape[1])
        sequence = torch.cat([tokens, points], dim=1)
        gained = self.blocks(sequence, slice(0, self.num_tokens)) - self.tokens
        return self.latents(self.norm(gained))


def grouped(points: Tensor, size: int) -> Tensor:
    """Points (B, P, C) in groups along the Hilbert curve: (B, groups, size, C); the last point fills the last group."""
    last = (1 << CURVE_BITS) - 1
    cells = ((points[..., :3].float() + 1) * (last + 1) / 2).long().clamp(0, last)
    order = hilbert_index(cells, CURVE_BITS).argsort(dim=1, stable=True)
    missing = -order.shape[1] % size
    order = torch.cat([order, order[:, -1:].expand(-1, missing)], dim=1)
    return rearrange(take_points(points, order), "b (g k) c -> b g k c", k=size)
