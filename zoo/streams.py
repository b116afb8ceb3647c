"""Orders in which an autoregressive model reads codes: (B, N, Q) <-> one stream of ids.

Each order is a permutation of the N * Q cells (plus empty places, for `delay`), computed once as a list of
cell numbers; reading and writing are then one gather and one scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Ranges", "StreamOrder", "from_ids", "to_ids"]

StreamOrder = Literal["flat", "scale_major", "delay", "frames"]
EMPTY = -1


class Ranges(NamedTuple):
    """How N splits into scales, and whether each scale has codebooks (hence ids) of its own."""

    scales: tuple[int, ...]
    distinct: bool


def to_ids(
    indices: Tensor, mask: Tensor, sizes: Sequence[int], ranges: Ranges, order: StreamOrder, start: int
) -> Tensor:
    """Codes (B, N, Q) int64 with valid positions (B, N) bool -> ids (B, L) int64; see `Tokens.to_ids`."""
    batch, count, depth = indices.shape
    limits = torch.tensor(sizes, device=indices.device)
    if bool((((indices < 0) | (indices >= limits)) & mask[..., None]).any()):
        raise ValueError(f"an index lies outside its codebook; codebook_sizes are {tuple(sizes)}")
    offsets = _offsets(count, sizes, ranges, start).to(indices.device)
    padding = start + _vocabulary(sizes, ranges)
    ids = torch.where(mask[..., None], indices + offsets, padding).reshape(batch, count * depth)
    cells = _cells(count, depth, ranges.scales, order).to(indices.device)
    return F.pad(ids, (0, 1), value=padding)[:, cells]  # EMPTY is -1: the padding just put last


def from_ids(
    ids: Tensor, sizes: Sequence[int], ranges: Ranges, order: StreamOrder, start: int
) -> tuple[Tensor, Tensor]:
    """Ids (B, L) int64 -> codes (B, N, Q) int64 and valid positions (B, N) bool; see `Tokens.from_ids`."""
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(f"ids must be int64 (B, L), got {ids.dtype} {tuple(ids.shape)}")
    batch, depth = len(ids), len(sizes)
    count = _count(ids.shape[1], depth, order)
    padding = start + _vocabulary(sizes, ranges)
    cells = _cells(count, depth, ranges.scales, order).to(ids.device)
    if bool((ids[:, cells == EMPTY] != padding).any()):
        raise ValueError(f"the empty places of the {order!r} pattern must hold the padding id {padding}")
    flat = ids.new_empty(batch, count * depth)
    flat[:, cells[cells != EMPTY]] = ids[:, cells != EMPTY]
    grid = flat.view(batch, count, depth)
    valid = (grid != padding).all(-1)
    if not _without_gaps(valid, ranges.scales) or bool((grid[~valid] != padding).any()):
        raise ValueError("an item has padding before its end, or only some codebooks of a position")
    indices = (grid - _offsets(count, sizes, ranges, start).to(ids.device)).masked_fill(~valid[..., None], 0)
    if bool(((indices < 0) | (indices >= torch.tensor(sizes, device=ids.device))).any()):
        raise ValueError(
            f"an id stands where its codebook cannot; is it the right order ({order!r}) and start ({start})?"
        )
    return indices, valid


def _without_gaps(valid: Tensor, scales: tuple[int, ...]) -> bool:
    """Whether nothing valid (B, N) follows what is not: in every item, or else in every scale of every item."""
    parts = valid.split(list(scales), dim=1) if scales else (valid,)
    return any(all(not bool((part[:, 1:] > part[:, :-1]).any()) for part in view) for view in ((valid,), parts))


def _vocabulary(sizes: Sequence[int], ranges: Ranges) -> int:
    return sum(sizes) * (len(ranges.scales) if ranges.distinct else 1)


def _count(length: int, depth: int, order: StreamOrder) -> int:
    count, rest = divmod(length, depth) if depth else (0, length)
    if order == "delay":
        count -= depth - 1
    if rest or count < 0:
        raise ValueError(f"{length} ids are no whole number of positions for {depth} codebooks in order {order!r}")
    return count


@lru_cache(maxsize=256)
def _offset_rows(count: int, sizes: tuple[int, ...], ranges: Ranges, start: int) -> Tensor:
    books = torch.tensor([start + sum(sizes[:q]) for q in range(len(sizes))], dtype=torch.int64)
    if not ranges.distinct:
        return books.expand(count, -1)
    steps = torch.repeat_interleave(torch.arange(len(ranges.scales)), torch.tensor(ranges.scales)) * sum(sizes)
    return books + steps[:, None]


def _offsets(count: int, sizes: Sequence[int], ranges: Ranges, start: int) -> Tensor:
    if ranges.scales and sum(ranges.scales) != count:
        raise ValueError(f"scales {ranges.scales} sum to {sum(ranges.scales)}, but there are {count} positions")
    if ranges.distinct and not ranges.scales:
        raise ValueError("distinct_scales needs scales")
    return _offset_rows(count, tuple(sizes), ranges, start)


@lru_cache(maxsize=256)
def _cells(count: int, depth: int, scales: tuple[int, ...], order: StreamOrder) -> Tensor:
    """(L,) int64 numbers n * Q + q in reading order, EMPTY where nothing is read."""
    grid = torch.arange(count * depth).view(count, depth)
    if order == "flat":
        return grid.reshape(-1)
    if order == "scale_major":
        return torch.cat([part.T.reshape(-1) for part in grid.split(list(scales or (count,)))])
    if order == "delay":
        late = torch.full((count + depth - 1, depth), EMPTY)
        for q in range(depth):
            late[q : q + count, q] = grid[:, q]
        return late.reshape(-1)
    if order == "frames":
        return grid[_depth_first(scales or (count,))].reshape(-1)
    raise ValueError(f"order is one of {get_args(StreamOrder)}, got {order!r}")


def _depth_first(scales: tuple[int, ...]) -> Tensor:
    """Positions frame by frame: a coarse token, then the finer tokens under it, as SNAC interleaves them."""
    starts = [sum(scales[:level]) for level in range(len(scales))]
    if any(fine % coarse for coarse, fine in pairwise(scales)):
        raise ValueError(f"order 'frames' needs every scale to be a multiple of the one before, got {scales}")
    positions: list[int] = []

    def visit(level: int, item: int) -> None:
        positions.append(starts[level] + item)
        if level + 1 < len(scales):
            ratio = scales[level + 1] // scales[level]
            for child in range(item * ratio, (item + 1) * ratio):
                visit(level + 1, child)

    for frame in range(scales[0]):
        visit(0, frame)
    return torch.tensor(positions, dtype=torch.int64)
