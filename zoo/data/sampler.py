"""The order of training samples as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

__all__ = ["StepSampler"]


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of `(index, draw)`, the same however often training was interrupted.

    Draw number g = 0, 1, 2, ... takes sample `permutation(seed, g // size)[g % size]`, so each epoch shows every
    sample once. Batch t of rank r holds the draws from (t * world_size + r) * batch_size on: neither the number of
    workers nor a restart changes what a step sees, and ranks never share a draw. `draw` seeds the augmentation.

    Args:
        size: samples in the data set.
        batch_size: samples per batch and rank.
        seed: of the permutations.
        start: batches already consumed (optimizer steps times accumulated batches).
        rank: this process, in [0, world_size).
        world_size: processes that share the stream.

    Raises:
        ValueError: a size below 1, a negative start, or a rank outside the world.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int = 0, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"StepSampler expects size >= 1 and batch_size >= 1, got {size} and {batch_size}")
        if start < 0 or not 0 <= rank < world_size:
            raise ValueError(f"StepSampler expects start >= 0 and 0 <= rank < {world_size}, got {start} and {rank}")
        self.size, self.batch_size, self.seed, self.start = size, batch_size, seed, start
        self.rank, self.world_size = rank, world_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch = self.start
        while True:
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield [(self.index(draw), draw) for draw in range(first, first + self.batch_size)]
            batch += 1

    def index(self, draw: int) -> int:
        """The sample that draw number `draw` takes."""
        epoch, position = divmod(draw, self.size)
        return int(self._permutation(epoch)[position])

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            self._order, self._epoch = torch.randperm(self.size, generator=generator), epoch
        return self._order


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, so that neighbours share nothing (splitmix64 finaliser)."""
    state, mask = 0, (1 << 64) - 1
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
