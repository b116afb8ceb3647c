"""What codes cost when they are packed: an adaptive range coder, its ideal length, and Huffman's."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from itertools import chain, islice, repeat

import torch
from torch import Tensor

__all__ = ["INCREMENTS", "adaptive_bits", "cheapest_increment", "huffman_bits", "range_decode", "range_encode"]

INCREMENT = 32
INCREMENTS = (1, 2, 4, 8, 16, 32, 64, 128)
_WORD = (1 << 64) - 1
_LOW = (1 << 56) - 1
_SMALL = 1 << 48
_LARGEST = 1 << 40


class Frequencies:
    """Frequencies of one context that learn: 1 for each of K symbols, and `increment` for each time one was seen.

    A binary indexed tree (Fenwick 1994): sums and updates take log2 K steps.

    Attributes:
        total: sum of all frequencies.
    """

    def __init__(self, size: int, increment: int) -> None:
        self.size, self.increment, self.total = size, increment, size
        self.tree = [index & -index for index in range(size + 1)]
        self.top = 1 << (size.bit_length() - 1)

    def interval(self, symbol: int) -> tuple[int, int]:
        """Sum of the frequencies below a symbol, and its own."""
        tree, start, index = self.tree, 0, symbol
        while index:
            start += tree[index]
            index &= index - 1
        index, own = symbol + 1, tree[symbol + 1]
        stop, index = index & (index - 1), symbol
        while index != stop:
            own -= tree[index]
            index &= index - 1
        return start, own

    def find(self, value: int) -> int:
        """The symbol in whose interval a value of [0, total) lies."""
        tree, size, index, step = self.tree, self.size, 0, self.top
        while step:
            beyond = index + step
            if beyond <= size and tree[beyond] <= value:
                value -= tree[beyond]
                index = beyond
            step >>= 1
        return index

    def see(self, symbol: int) -> None:
        """Learn that a symbol came."""
        tree, size, increment, index = self.tree, self.size, self.increment, symbol + 1
        while index <= size:
            tree[index] += increment
            index += index & -index
        self.total += increment


class _Model:
    """A `Frequencies` for each context, made when its first symbol comes."""

    def __init__(self, size: int, increment: int, count: int) -> None:
        if size < 1 or increment < 1:
            raise ValueError(f"expected a size and an increment of at least 1, got {size} and {increment}")
        if size + increment * count > _LARGEST:
            raise ValueError(f"{count} symbols of {size} at increment {increment} are more than the coder's arithmetic")
        self.size, self.increment = size, increment
        self.contexts: dict[int, Frequencies] = {}

    def __getitem__(self, context: int) -> Frequencies:
        found = self.contexts.get(context)
        if found is None:
            found = self.contexts[context] = Frequencies(self.size, self.increment)
        return found


def range_encode(
    symbols: Iterable[int], size: int, contexts: Iterable[int] | None = None, *, increment: int = INCREMENT
) -> bytes:
    """Pack symbols by an adaptive range coder (Martin 1979; carries are added to what was written).

    Both sides start from equal frequencies and learn alike, so that no table is sent. `adaptive_bits` says beforehand
    how long the result will be, to 0.1 % and 3 bytes.

    Args:
        symbols: integers in [0, size).
        size: K. Each context in use takes 8 K bytes.
        contexts: an integer for each symbol that the decoder will know, such as its codebook or its position: each has
            frequencies of its own. None for one context.
        increment: what seeing a symbol adds to its frequency, which starts at 1.

    Raises:
        ValueError: a symbol outside [0, size), or not as many contexts as symbols.
    """
    values = [int(value) for value in symbols]
    places = [0] * len(values) if contexts is None else [int(value) for value in contexts]
    if values and not 0 <= min(values) <= max(values) < size:
        raise ValueError(f"expected symbols in [0, {size}), got {min(values)} to {max(values)}")
    if len(places) != len(values):
        raise ValueError(f"expected a context for each of {len(values)} symbols, got {len(places)}")
    model, written = _Model(size, increment, len(values)), bytearray()
    low, width = 0, _WORD
    for symbol, context in zip(values, places, strict=True):
        frequencies = model[context]
        start, own = frequencies.interval(symbol)
        unit = width // frequencies.total
        low += unit * start
        width = unit * own
        frequencies.see(symbol)
        if low > _WORD:
            low &= _WORD
            _carry(written)
        while width < _SMALL:
            written.append(low >> 56)
            low = (low & _LOW) << 8
            width <<= 8
    return bytes(_finish(written, low, width)) if values else b""


def range_decode(
    data: bytes,
    size: int,
    count: int | None = None,
    contexts: Sequence[int] | None = None,
    *,
    increment: int = INCREMENT,
) -> list[int]:
    """The symbols that `range_encode` packed.

    Args:
        data: what it returned.
        size, increment: as they were given to it.
        count: symbols; as many as contexts where those are given.
        contexts: as they were given to it.

    Raises:
        ValueError: neither a count nor contexts.
    """
    if contexts is None:
        if count is None:
            raise ValueError(
                "range_decode expects count= or contexts=, got neither; the data does not say where it ends"
            )
        contexts = [0] * count
    model, found = _Model(size, increment, len(contexts)), []
    source = chain(data, repeat(0))
    offset, width = int.from_bytes(bytes(islice(source, 8))), _WORD
    for context in contexts:
        frequencies = model[int(context)]
        unit = width // frequencies.total
        symbol = frequencies.find(min(offset // unit, frequencies.total - 1))
        start, own = frequencies.interval(symbol)
        offset -= unit * start
        width = unit * own
        frequencies.see(symbol)
        while width < _SMALL:
            offset = offset << 8 | next(source)
            width <<= 8
        found.append(symbol)
    return found


def _carry(written: bytearray) -> None:
    """Add 1 to the number that the bytes are."""
    place = len(written) - 1
    while written[place] == 255:
        written[place] = 0
        place -= 1
    written[place] += 1


def _finish(written: bytearray, low: int, width: int) -> bytearray:
    """Write the shortest number in [low, low + width), whose missing bytes are zeros."""
    value = (low + width - 1) // _SMALL * _SMALL
    if value > _WORD:
        value &= _WORD
        _carry(written)
    written += value.to_bytes(8)
    while written and not written[-1]:
        written.pop()
    return written


def adaptive_bits(counts: Tensor, size: int, contexts: Tensor | None = None, *, increment: int = INCREMENT) -> Tensor:
    """-sum log2 p of the adaptive model of `range_encode`, in closed form.

    The model is the predictive rule of a Dirichlet prior of 1 / increment for each symbol, so its code length depends
    on how often each symbol came in each context, and not on their order.

    Args:
        counts: (U,) int64, how often each symbol came in its context; those that did not may be left out.
        size: K.
        contexts: (U,) int64, the context of each count; None for one.

    Returns:
        () float64 bits.
    """
    prior = 1 / increment
    places = torch.zeros_like(counts) if contexts is None else contexts.unique(return_inverse=True)[1]
    totals = torch.zeros(int(places.max()) + 1 if len(places) else 0, dtype=torch.float64, device=counts.device)
    totals.index_add_(0, places, counts.double())
    nats = (torch.lgamma(totals + prior * size) - math.lgamma(prior * size)).sum()
    nats = nats - (torch.lgamma(counts.double() + prior) - math.lgamma(prior)).sum()
    return nats / math.log(2)


def cheapest_increment(counts: Tensor, size: int, contexts: Tensor | None = None) -> tuple[int, Tensor]:
    """Which of the 8 `INCREMENTS` packs best, and the bits () float64 with 3 more that tell the decoder.

    Small ones suit codebooks of which all entries are in use, large ones those of which few are. Arguments as for
    `adaptive_bits`.
    """
    bits = torch.stack([adaptive_bits(counts, size, contexts, increment=increment) for increment in INCREMENTS])
    best = int(bits.argmin())
    return INCREMENTS[best], bits[best] + (math.log2(len(INCREMENTS)) if len(counts) else 0)


def huffman_bits(counts: Tensor) -> Tensor:
    """Bits of all codes in the optimal prefix code of their own counts (Huffman 1952), without its table.

    Args:
        counts: (U,) int64; zeros have no code word. A single entry takes one bit a code.

    Returns:
        () float64.
    """
    heap = counts[counts > 0].tolist()
    if len(heap) == 1:
        return torch.tensor(float(heap[0]), dtype=torch.float64)
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        bits += both
        heapq.heappush(heap, both)
    return torch.tensor(float(bits), dtype=torch.float64)
