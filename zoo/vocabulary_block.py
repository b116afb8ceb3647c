"""The ids of one modality in a vocabulary: items to ids, and back as far as ids go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_args

import torch
from torch import Tensor

from zoo import streams
from zoo.spec import TokenizerSpec
from zoo.streams import Ranges, StreamOrder
from zoo.tokens import Tokens

__all__ = ["Block", "trimmed"]


@dataclass(frozen=True, slots=True)
class Block:
    """The ids of one modality; see `zoo.vocabulary`.

    Attributes:
        name: of the modality.
        spec: of its tokenizer.
        order: of the codes in a stream.
        begin: the first id, which begins an item.
        max_rows: of grids, where pictures have any size.
    """

    name: str
    spec: TokenizerSpec
    order: StreamOrder
    begin: int
    max_rows: int

    def __post_init__(self) -> None:
        if self.spec.continuous:
            raise ValueError(
                f"{self.name}: the tokenizer gives latents, a vocabulary is for codes; quantize them first"
            )
        if self.order not in get_args(StreamOrder):
            raise ValueError(f"{self.name}: order is one of {get_args(StreamOrder)}, got {self.order!r}")

    @property
    def end(self) -> int:
        """The id that ends an item."""
        return self.begin + 1

    @property
    def start(self) -> int:
        """The first id of codes: `start` of `Tokens.to_ids`."""
        return self.begin + 2

    @property
    def codes(self) -> int:
        """How many ids codes have."""
        spec = self.spec
        return sum(spec.codebook_sizes) * (len(spec.scales) if spec.distinct_scales else 1)

    @property
    def pad(self) -> int:
        """The padding id, also of the empty places of the delay pattern."""
        return self.start + self.codes

    @property
    def rows(self) -> int:
        """How many numbers of rows have an id; 0 where items are no grids of any size."""
        return self.max_rows if self.spec.any_size and self.spec.modality == "image" else 0

    @property
    def stop(self) -> int:
        """The id behind the last one."""
        return self.pad + 1 + self.rows

    def names(self) -> Iterator[str]:
        """What the ids are called, from `begin` on."""
        yield from (f"<{self.name}>", f"</{self.name}>")
        yield from (f"<{self.name}:{code}>" for code in range(self.codes))
        yield f"<{self.name}:pad>"
        yield from (f"<{self.name}:rows:{count + 1}>" for count in range(self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        ids = {name: getattr(self, name) for name in ("begin", "end", "start", "codes", "pad", "rows", "stop")}
        return {"spec": self.spec.to_dict(), "order": self.order, **ids}

    def ids(self, tokens: Tokens) -> Tensor:
        """(B, L) int64: begin, rows where there are any, codes, end of items of one length without padding.

        Raises:
            ValueError: tokens of another tokenizer, with gaps, or of too many rows.
        """
        spec = self.spec
        if tokens.codebook_sizes != spec.codebook_sizes or tokens.lengths is not None:
            gaps = "" if tokens.lengths is None else " and lengths of their own"
            raise ValueError(
                f"{self.name} takes whole items with codebooks {spec.codebook_sizes}, got {tokens.codebook_sizes}{gaps}"
            )
        codes = tokens.to_ids(self.order, self.start)
        codes = codes.masked_fill(codes == self.start + tokens.vocabulary_size, self.pad)
        parts = [codes, codes.new_full((len(codes), 1), self.end)]
        if self.rows:
            parts.insert(0, self.pad + self.rows_of(tokens.size, tokens.num_tokens)[:, None])
        return torch.cat([codes.new_full((len(codes), 1), self.begin), *parts], dim=1)

    def tokens(self, ids: Sequence[int], ended: bool) -> tuple[Tokens | None, str]:
        """What stands between the begin and the end of an item, and "" or what is wrong with it.

        Args:
            ids: in [begin, stop), without begin and end.
            ended: whether the end follows.
        """
        note, rows = "" if ended else f"the stream ends before </{self.name}>", None
        if self.rows:
            if not ids or ids[0] <= self.pad:
                return None, note or "it does not begin with its number of rows"
            rows, ids = ids[0] - self.pad, ids[1:]
        count, scales = self._extent(len(ids), ended)
        if count is None:
            return None, note or f"{len(ids)} ids are no whole item"
        indices = self._codes(torch.tensor(ids, dtype=torch.int64), count, scales)
        valid = len(indices) if bool((indices >= 0).all()) else int((indices < 0).any(1).int().argmax())
        wanted = count if self.spec.any_size or (self.spec.flexible and ended) else self.spec.num_tokens
        whole = len(ids) == self._length(count)
        if not note and (valid < wanted or not whole):
            note = f"{valid} of {wanted} tokens are in order" if valid < wanted else "ids follow behind its last token"
        if scales and self.order == "frames" and self.spec.any_size and valid < count:
            indices, scales, valid = self._whole_frames(indices, scales)
        if rows is not None and not note and (valid % rows or not valid):
            note = f"{valid} tokens do not fill {rows} rows"
        if valid == 0:
            return None, note or "it is empty"
        layout: Any = {"distinct_scales": self.spec.distinct_scales, "order": self.spec.order}
        size = self._size(valid, rows) if not note else None
        found = Tokens(
            indices[None, :valid], self.spec.codebook_sizes, None, size, scales=_cut(scales, valid), **layout
        )
        return found, note

    def rows_of(self, size: Tensor | None, count: int) -> Tensor:
        """(B,) rows of the grids of pictures (B, 2) of `count` tokens.

        Raises:
            ValueError: there are no sizes, or too many rows.
        """
        if size is None or self.spec.downsample is None:
            raise ValueError(f"{self.name}: pictures of any size need tokens.size (B, 2) for their number of rows")
        rows = -(-size[:, 0] // self.spec.downsample)
        if len(rows) and (int(rows.max()) > self.max_rows or bool((count % rows).any())):
            raise ValueError(
                f"{self.name}: {count} tokens in {int(rows.max())} rows; rows must divide them and be at most "
                f"max_rows={self.max_rows}, {self.max_rows * self.spec.downsample} pixels; shrink larger pictures"
            )
        return rows

    def _size(self, count: int, rows: int | None) -> Tensor | None:
        """(1, axes) of a whole item: of the tokenizer's one size, or of so many whole tokens; of a shape unknown."""
        spec = self.spec
        if spec.modality == "shape":
            return None
        if not spec.any_size:
            return torch.tensor([spec.input_shape[1:]])
        if spec.downsample is None:
            return None
        if rows is not None:
            return torch.tensor([[rows * spec.downsample, count // rows * spec.downsample]])
        finest = count * spec.scales[-1] // sum(spec.scales) if spec.scales else count
        return torch.tensor([[finest * spec.downsample]])

    def _length(self, count: int) -> int:
        """Ids of so many positions."""
        depth = len(self.spec.codebook_sizes)
        return (count + depth - 1 if self.order == "delay" else count) * depth

    def _extent(self, length: int, ended: bool) -> tuple[int | None, tuple[int, ...]]:
        """Positions and scales of an item of so many ids, or of the one that they begin; None if that is open."""
        spec, depth = self.spec, len(self.spec.codebook_sizes)
        count, rest = divmod(length, depth)
        if self.order == "delay":
            count -= depth - 1
        whole = ended and not rest and count > 0
        if not spec.any_size:
            if whole and count < spec.num_tokens and spec.flexible:
                return count, _cut(spec.scales, count)
            return spec.num_tokens, spec.scales
        unit, least = _unit(spec.scales), 1
        if unit:
            least = sum(unit)
        if whole and count % least == 0:
            return count, tuple(part * (count // least) for part in unit)
        if (self.order == "scale_major" and depth > 1) or (unit and self.order != "frames"):
            return None, ()
        steps = -(-length // (depth * least))
        return (steps * least, tuple(part * steps for part in unit)) if steps else (None, ())

    def _codes(self, ids: Tensor, count: int, scales: tuple[int, ...]) -> Tensor:
        """(N, Q) int64 codes that ids give before the first that is out of place; -1 where there is none."""
        sizes = torch.tensor(self.spec.codebook_sizes)
        depth = len(sizes)
        cells = reading_order(count, depth, scales, self.order)[: len(ids)]
        ids = ids[: len(cells)]
        books = cells % depth
        starts = self.start + sizes.cumsum(0) - sizes
        offsets = starts[books]
        if self.spec.distinct_scales:
            level = torch.repeat_interleave(torch.arange(len(scales)), torch.tensor(scales))
            offsets = offsets + level[cells // depth] * int(sizes.sum())
        codes = ids - offsets
        fine = torch.where(cells < 0, ids == self.pad, (codes >= 0) & (codes < sizes[books]))
        usable = len(ids) if bool(fine.all()) else int((~fine).int().argmax())
        found = torch.full((count * depth,), -1)
        kept = cells[:usable] >= 0
        found[cells[:usable][kept]] = codes[:usable][kept]
        return found.view(count, depth)

    def _whole_frames(self, indices: Tensor, scales: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...], int]:
        """Codes of several rates up to the last frame of the coarsest that is whole."""
        unit, parts = _unit(scales), indices.split(list(scales))
        ready = [(part >= 0).all(1).view(-1, step).all(1) for part, step in zip(parts, unit, strict=True)]
        together = torch.stack(ready).all(0)
        steps = len(together) if bool(together.all()) else int((~together).int().argmax())
        kept = tuple(part * steps for part in unit)
        found = [part[:size] for part, size in zip(parts, kept, strict=True)]
        return torch.cat(found), kept, sum(kept)


@lru_cache(maxsize=64)
def reading_order(count: int, depth: int, scales: tuple[int, ...], order: StreamOrder) -> Tensor:
    """(L,) int64 numbers n * Q + q of cells in the order of a stream, -1 for empty places.

    The stream of the cells' own numbers says it: each codebook gets as many ids as there are cells.
    """
    cells = torch.arange(count * depth)
    mask = torch.ones(1, count, dtype=torch.bool)
    size = count * depth
    ids = streams.to_ids(cells.view(1, count, depth), mask, (size,) * depth, Ranges(scales, False), order, 0)[0]
    return torch.where(ids == size * depth, -1, ids % size)


def trimmed(tokens: Tokens) -> Tokens:
    """Tokens of one item without padding behind its end."""
    if len(tokens) != 1:
        raise ValueError(f"a stream takes one item at a time, got {len(tokens)}; give tokens[0], tokens[1], ...")
    if tokens.lengths is None or tokens.lengths.ndim != 1:
        return tokens
    count = int(tokens.lengths[0])
    return replace(
        tokens,
        indices=tokens.indices[:, :count],
        lengths=None,
        scales=_cut(tokens.scales, count),
        latents=None,
        positions=None,
        durations=None,
    )


def _unit(scales: Sequence[int]) -> tuple[int, ...]:
    """Scales of the shortest item that has whole tokens at all rates."""
    common = math.gcd(*scales) if scales else 1
    return tuple(size // common for size in scales)


def _cut(scales: Sequence[int], count: int) -> tuple[int, ...]:
    """Scales of the first so many positions."""
    kept: list[int] = []
    for size in scales:
        if (room := count - sum(kept)) <= 0:
            break
        kept.append(min(size, room))
    return tuple(kept)
