"""VAT's decoder: latents and plane tokens in one transformer, then a triplane by convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from decoders.triplane import PLANES, TriplaneHead
from encoders.layers.attention import Transformer, init_weights
from encoders.layers.curve import curve_points
from encoders.layers.points import FourierPoints

__all__ = ["InContextTriplane"]


class InContextTriplane(nn.Module):
    """Learned tokens of three planes that attend to the latents in one sequence (VAT, arXiv 2412.02202).

    Of the sequence the plane tokens are kept; transposed convolutions, each of which doubles the resolution, turn them
    into a triplane that an MLP reads.

    With `place=True` latents and plane tokens begin where they are, as in `encoders.InContextEncoder`: a latent at its
    point on the Hilbert curve, a plane token at the two coordinates of its cell, the third left out.

    Args:
        dim: width D of a latent.
        num_tokens: N latents.
        resolution: r of a plane of tokens.
        width: of the transformer.
        depth: its blocks.
        heads: a divisor of the width.
        channels: C of the planes after each doubling; the last is the triplane's.
        hidden: width of the MLP.
        mlp_depth: its linear layers.
        bands: frequencies of Fourier features.
        place: see above; False starts from noise.
        points: whether the MLP also reads the Fourier features of the point.
        outside: what is read beyond [-1, 1]: "zeros" or the planes' "border".
    """

    def __init__(
        self,
        *,
        dim: int,
        num_tokens: int,
        resolution: int = 32,
        width: int = 768,
        depth: int = 16,
        heads: int = 12,
        channels: Sequence[int] = (128, 64, 32),
        hidden: int = 64,
        mlp_depth: int = 3,
        bands: int = 8,
        place: bool = False,
        points: bool = False,
        outside: Literal["zeros", "border"] = "border",
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_tokens = num_tokens
        self.resolution = resolution
        self.latent = nn.Linear(dim, width)
        self.positions = nn.Parameter(torch.randn(num_tokens, width) * 0.02)
        self.tokens = nn.Parameter(torch.randn(3 * resolution**2, width) * 0.02)
        self.blocks = Transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        layers: list[nn.Module] = []
        for before, after in pairwise((width, *channels)):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.GELU(), nn.Conv2d(after, after, 3, padding=1)]
            layers.append(nn.GELU())
        self.enlarge = nn.Sequential(*layers[:-1])
        self.head = TriplaneHead(channels[-1], hidden, mlp_depth, outside=outside, bands=bands if points else 0)
        self.blocks.apply(init_weights)
        self.enlarge.apply(keep_variance)
        self.head.apply(keep_variance)
        self.route: nn.Parameter | None = None
        if place:
            self._place(bands, width)

    @torch.no_grad()
    def _place(self, bands: int, width: int) -> None:
        fourier = FourierPoints(bands, pi=False, raw="first")
        where = nn.Linear(fourier.dim, width)
        places, reach = curve_points(self.num_tokens), self.num_tokens ** (-1 / 3)
        self.positions.copy_(where(fourier(places)))
        routes = []
        line = (torch.arange(self.resolution) + 0.5) * (2 / self.resolution) - 1
        rows, columns = (side.flatten() for side in torch.meshgrid(line, line, indexing="ij"))
        for number, (across, along) in enumerate(PLANES):
            points, known = torch.zeros(len(rows), 3), torch.zeros(3)
            points[:, across], points[:, along] = columns, rows
            known[[across, along]] = 1.0
            features = fourier(points) * torch.cat([known, known.repeat_interleave(bands).repeat(2)])
            self.tokens[number * len(rows) :][: len(rows)] = where(features)
            apart = (points[:, None, [across, along]] - places[:, [across, along]]).square().sum(-1)
            routes.append((-0.5 * apart / reach**2).exp())
        self.route = nn.Parameter(F.normalize(torch.cat(routes), dim=1))
        self.gates = nn.Parameter(torch.randn(self.num_tokens, width))

    def forward(self, latents: Tensor) -> Tensor:
        """(B, N, D) to planes (B, 3, C, R, R), R = r 2^len(channels)."""
        said, tokens = self.latent(latents), self.tokens.expand(len(latents), -1, -1)
        if self.route is not None:
            tokens = tokens + self.route @ (said * self.gates)
        sequence = torch.cat([said + self.positions, tokens], dim=1)
        tokens = self.norm(self.blocks(sequence, slice(self.num_tokens, None)))
        maps = rearrange(tokens, "b (p h w) d -> (b p) d h w", p=3, h=self.resolution)
        return self.enlarge(maps).unflatten(0, (len(latents), 3))

    def query(self, planes: Tensor, queries: Tensor) -> Tensor:
        """Logits (B, Q) at points (B, Q, 3)."""
        return self.head(planes, queries)


@torch.no_grad()
def keep_variance(module: nn.Module) -> None:
    """Weights that keep the variance of what passes a ReLU, or nearly so a GELU (arXiv 1502.01852), and no biases."""
    if isinstance(module, nn.ConvTranspose2d):
        reads = module.in_channels * math.prod(module.kernel_size) / math.prod(module.stride)
        nn.init.normal_(module.weight, std=(2 / reads) ** 0.5)
    elif isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
