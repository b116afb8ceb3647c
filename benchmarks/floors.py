"""The least that a quantizer can do at a given size: what `benchmarks/quantizers.py` measures quantizers against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.meters import seconds

__all__ = ["ElementwiseFloor", "EntropyFloor", "Floor", "MappedSearchFloor", "ScaledSearchFloor", "SearchFloor"]

BLOCKS = (2**18, 2**20, 2**22, 2**25)
WHOLE_LIMIT = 2**28  # scores of a whole product: 1 GiB


class Floor:
    """Work without which the results cannot be had; nothing is searched, checked or returned."""

    def encode(self) -> None:
        """What finding codes costs at least."""
        raise NotImplementedError(f"{type(self).__name__} does not define encode")

    def train(self) -> None:
        """What a forward and a backward cost at least."""
        raise NotImplementedError(f"{type(self).__name__} does not define train")


class SearchFloor(Floor):
    """The matrix products of searches, without the arg-min, into memory that is allocated once.

    Training adds the gather of the chosen codes and the sum of latents into their codes. Products run whole or in
    blocks, whichever is fastest here.

    Args:
        sizes: (N, K, D) of each search: latents, codes, width.
        device: where it runs.
    """

    def __init__(self, sizes: Sequence[tuple[int, int, int]], device: torch.device) -> None:
        self.searches = [
            (torch.randn(count, dim, device=device), torch.randn(codes, dim, device=device))
            for count, codes, dim in sizes
        ]
        self.chosen = [torch.randint(len(codes), (len(x),), device=x.device) for x, codes in self.searches]
        largest = max(len(x) * len(codes) for x, codes in self.searches)
        blocks = [size for size in BLOCKS if size < largest] + [largest] * (largest <= WHOLE_LIMIT)
        self._blocks(min(blocks, key=self._trial))

    def encode(self) -> None:
        self._products()

    def train(self) -> None:
        self._products()
        for (x, codes), chosen in zip(self.searches, self.chosen, strict=True):
            F.embedding(chosen, codes)
            torch.zeros_like(codes).index_add_(0, chosen, x)

    def _products(self) -> None:
        for x, codes in self.searches:
            self._product(x, codes)

    def _blocks(self, size: int) -> None:
        x = self.searches[0][0]
        self.size, self.scores = size, x.new_empty(size)

    def _product(self, x: Tensor, codes: Tensor) -> None:
        columns = min(len(codes), max(2 * math.isqrt(self.size), self.size // len(x)))
        for rows in x.split(max(self.size // columns, 1)):
            for part in codes.split(columns):
                torch.mm(rows, part.T, out=self.scores[: len(rows) * len(part)].view(len(rows), len(part)))

    def _trial(self, size: int) -> float:
        self._blocks(size)
        x, codes = max(self.searches, key=lambda pair: len(pair[0]) * len(pair[1]))
        part = x[: max(1, 2**27 // len(codes))]
        return min(seconds(lambda: self._product(part, codes), x.device) for _ in range(3))


class MappedSearchFloor(SearchFloor):
    """A search among codes that are a linear map of a fixed table; training adds the gradient of the map.

    Args:
        size: (N, K, D): latents, codes, width of latents and table.
        device: where it runs.
    """

    def __init__(self, size: tuple[int, int, int], device: torch.device) -> None:
        super().__init__([size], device)
        self.table = torch.randn(size[1:], device=device)
        self.weight = torch.randn(size[2], size[2], device=device)

    def encode(self) -> None:
        torch.mm(self.table, self.weight.T)
        super().encode()

    def train(self) -> None:
        super().train()
        torch.mm(self.table, self.weight.T)
        torch.mm(self.searches[0][1].T, self.table)


class ScaledSearchFloor(SearchFloor):
    """A search at each scale of square grids, and one 3 x 3 convolution a scale at the size of the last.

    Args:
        sides: of the grids.
        images: grids at a time.
        codes: codes K.
        dim: width D.
        device: where it runs.
    """

    def __init__(self, sides: Sequence[int], images: int, codes: int, dim: int, device: torch.device) -> None:
        super().__init__([(images * side * side, codes, dim) for side in sides], device)
        self.maps = torch.randn(images, dim, sides[-1], sides[-1], device=device, requires_grad=True)
        self.kernel = torch.randn(dim, dim, 3, 3, device=device, requires_grad=True)

    def encode(self) -> None:
        super().encode()
        with torch.no_grad():
            for _ in self.searches:
                F.conv2d(self.maps, self.kernel, padding=1)

    def train(self) -> None:
        super().train()
        for _ in self.searches:
            smoothed = F.conv2d(self.maps, self.kernel, padding=1)
            torch.autograd.grad(smoothed, (self.maps, self.kernel), self.maps.detach())


class ElementwiseFloor(Floor):
    """One pass over the latents; training adds its gradient.

    Args:
        size: (N, D): latents and their width.
        device: where it runs.
    """

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self.z = torch.randn(size, device=device, requires_grad=True)
        self.gradient = torch.ones_like(self.z)

    def encode(self) -> None:
        with torch.no_grad():
            self.z.tanh()

    def train(self) -> None:
        torch.autograd.grad(self.z.tanh(), self.z, self.gradient)


class EntropyFloor(ElementwiseFloor):
    """One pass over the latents; training adds the product of the two halves' distributions, A^T B, and its gradients.

    Args:
        size: (N, bits).
        device: where it runs.
    """

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        super().__init__(size, device)
        count, bits = size
        self.halves = [torch.rand(count, 2**part, device=device) for part in (bits - bits // 2, bits // 2)]
        self.average_gradient = torch.ones(2 ** (bits - bits // 2), 2 ** (bits // 2), device=device)

    def train(self) -> None:
        super().train()
        left, right = self.halves
        left.T @ right
        right @ self.average_gradient.T
        left @ self.average_gradient
