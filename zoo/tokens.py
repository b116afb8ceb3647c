"""Codes of a batch, on their way from a tokenizer to a decoder, a file or a generator."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from zoo import streams
from zoo.spec import Order

__all__ = ["Tokens"]

_LAYOUT = ("codebook_sizes", "scales", "distinct_scales", "order")
_OPTIONAL = ("lengths", "size", "latents", "positions", "durations", "gains")


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Discrete codes (or continuous latents) of B items.

    Attributes:
        indices: (B, N, Q) int64; N positions, Q codebooks read in parallel. Q = 0 for continuous latents.
        codebook_sizes: entries of each of the Q codebooks.
        lengths: (B,) int64, valid positions of each item from the front; or (B, S) int64, those of each of S `scales`
            from that scale's front (SNAC, in batches of sounds of different lengths); None when all N are.
        size: the source's size; None if unknown. (B, axes) int64: (H, W) in pixels or (T,) in samples. Of shapes
            (B, 4) float: the centre x, y, z and the scale that bring them back, world = scale * x + centre.
        latents: (B, N, D) float, for continuous families only.
        scales: how N splits, coarse to fine; empty for a single scale.
        distinct_scales: each scale has codebooks of its own.
        order: what the N axis means (`TokenizerSpec.order`).
        positions: (B, N) int64, for tokenizers that leave out tokens in the middle of a code (KARL): the place that
            each valid token had, rising within an item; None when the n-th token has place n. Where tokens are segments
            (Sylber), the frame at which each begins.
        durations: (B, N) int64, for tokenizers whose tokens are segments (Sylber): frames that each valid token lasts.
        gains: (B, S) float, loudness of each of S stretches of the input, for codecs that even it out (EnCodec 48 kHz).
    """

    indices: Tensor
    codebook_sizes: tuple[int, ...]
    lengths: Tensor | None = None
    size: Tensor | None = None
    latents: Tensor | None = None
    scales: tuple[int, ...] = ()
    distinct_scales: bool = False
    order: Order = "raster"
    positions: Tensor | None = None
    durations: Tensor | None = None
    gains: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.indices.shape)
        if self.indices.dtype != torch.int64 or len(shape) != 3 or shape[2] != len(self.codebook_sizes):
            raise ValueError(
                f"indices must be int64 (B, N, {len(self.codebook_sizes)}) for codebook_sizes={self.codebook_sizes}, "
                f"got {self.indices.dtype} {shape}"
            )
        if self.scales and sum(self.scales) != shape[1]:
            raise ValueError(f"scales {self.scales} sum to {sum(self.scales)}, but there are {shape[1]} positions")
        if self.lengths is not None:
            expected = [shape[:1], (shape[0], len(self.scales))][: 2 if self.scales else 1]
            if tuple(self.lengths.shape) not in expected or self.lengths.dtype != torch.int64:
                wanted, got = " or ".join(map(str, expected)), tuple(self.lengths.shape)
                raise ValueError(f"lengths must be int64 {wanted}, got {self.lengths.dtype} {got}")
        size = self.size
        if size is not None and (size.ndim != 2 or len(size) != shape[0]):
            raise ValueError(f"size must be ({shape[0]}, axes), got {tuple(size.shape)}")
        if size is not None and size.is_floating_point() and size.shape[1] != 4:
            raise ValueError(f"size in floats is ({shape[0]}, 4), centre and scale, got {tuple(size.shape)}")
        if self.latents is not None and tuple(self.latents.shape[:2]) != shape[:2]:
            raise ValueError(f"latents must be ({shape[0]}, {shape[1]}, D), got {tuple(self.latents.shape)}")
        for name in ("positions", "durations"):
            counts = getattr(self, name)
            if counts is not None and (tuple(counts.shape) != shape[:2] or counts.dtype != torch.int64):
                raise ValueError(f"{name} must be int64 {shape[:2]}, got {counts.dtype} {tuple(counts.shape)}")
        gains = self.gains
        if gains is not None and (gains.ndim != 2 or len(gains) != shape[0] or not gains.is_floating_point()):
            raise ValueError(f"gains must be float ({shape[0]}, S), got {gains.dtype} {tuple(gains.shape)}")

    def __repr__(self) -> str:
        """What is set; of tensors with more than a few numbers their dtype and shape."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = [f"{name}={_brief(value)}" for name, value in values.items() if isinstance(value, Tensor) or value]
        return f"Tokens({', '.join(shown)})"

    def __len__(self) -> int:
        return self.indices.shape[0]

    def __getitem__(self, items: int | slice | Tensor) -> Self:
        """Some of the items, as a batch: an int gives a batch of one."""
        index: slice | Tensor
        if isinstance(items, int):
            position = range(len(self))[items]
            index = slice(position, position + 1)
        else:
            index = items
        return self._map(lambda tensor: tensor[index])

    @property
    def num_tokens(self) -> int:
        """N, the positions of the longest item."""
        return self.indices.shape[1]

    @property
    def vocabulary_size(self) -> int:
        """Ids that `to_ids` can produce before `start` is added, without the padding id."""
        return sum(self.codebook_sizes) * (len(self.scales) if self.distinct_scales else 1)

    @property
    def mask(self) -> Tensor:
        """(B, N) bool, True at valid positions."""
        if self.lengths is None:
            return torch.ones(self.indices.shape[:2], dtype=torch.bool, device=self.indices.device)
        if self.lengths.ndim == 1:
            return ~_past(self.lengths, self.num_tokens)
        ends = zip(self.lengths.unbind(1), self.scales, strict=True)
        return torch.cat([~_past(lengths, width) for lengths, width in ends], dim=1)

    def bits(self) -> Tensor:
        """Bits of each item: valid positions times the sum of log2(codebook size), and what their places cost.

        Of n tokens up to place p, the last being there, log2 C(p, n - 1) bits say where the others are: none for a
        prefix. Segments that fill f frames without gaps take log2 C(f - 1, n - 1) bits for their durations; with gaps,
        log2 C(f + n - 1, 2 n - 1) bits say where each begins and ends. That an item ends, and where, is not counted,
        nor are `gains`.

        Returns:
            (B,) float64.

        Raises:
            ValueError: continuous latents have no codes to count.
        """
        if not self.codebook_sizes:
            raise ValueError("continuous latents have no bits; quantize them first")
        codes = self.mask.sum(1).double() * sum(math.log2(size) for size in self.codebook_sizes)
        return codes + _bits_of_places(self.positions, self.durations, self.mask)

    def keep(self, count: int | Tensor) -> Self:
        """The first positions of every item: what a flexible tokenizer decodes at a lower rate.

        Args:
            count: positions to keep, at least 1; an int for all items or an int64 (B,) tensor.

        Raises:
            ValueError: the order is not coarse to fine, or count is below 1.
        """
        if self.order not in ("coarse_to_fine", "scales"):
            raise ValueError(f"prefixes of {self.order!r} codes do not stand for the whole; keep needs coarse_to_fine")
        counts = torch.as_tensor(count, device=self.indices.device).expand(len(self))
        if counts.numel() and int(counts.min()) < 1:
            raise ValueError(f"keep at least 1 token, got {count}")
        mask = self.mask & ~_past(counts, self.num_tokens)
        width = int(mask.any(0).nonzero().max()) + 1 if mask.any() else 0
        mask, scales = mask[:, :width], _cut(self.scales, width)
        return replace(
            self,
            indices=self.indices[:, :width].masked_fill(~mask[..., None], 0),
            lengths=_lengths(mask, scales),
            latents=None if self.latents is None else self.latents[:, :width],
            scales=scales,
            positions=None if self.positions is None else self.positions[:, :width],
            durations=None if self.durations is None else self.durations[:, :width],
        )

    def keep_codebooks(self, count: int) -> Self:
        """The first `count` codebooks of every position: what a residual codec decodes at a lower rate.

        Raises:
            ValueError: count is not between 1 and the number of codebooks.
        """
        if not 1 <= count <= len(self.codebook_sizes):
            raise ValueError(f"keep 1 to {len(self.codebook_sizes)} codebooks, got {count}")
        return replace(self, indices=self.indices[..., :count], codebook_sizes=self.codebook_sizes[:count])

    def by_scale(self) -> tuple[Tensor, ...]:
        """Views (B, n, Q) of the indices, one per scale, coarse to fine; all of them when there is one scale."""
        return tuple(self.indices.split(list(self.scales), dim=1)) if self.scales else (self.indices,)

    def to_ids(self, order: streams.StreamOrder = "flat", start: int = 0) -> Tensor:
        """One stream of ids per item, for an autoregressive model.

        Every codebook (and every scale, where scales have their own codebooks) has its own range of
        ids; `start + vocabulary_size` is the padding id after the end of shorter items and in the empty
        places of the delay pattern. `positions`, `durations` and `gains` are not part of the stream.

        Args:
            order: `flat` (all codebooks of a position, then the next position), `scale_major` (within each
                scale, one codebook after the other), `delay` (codebook q is q steps late: MusicGen, arXiv
                2306.05284) or `frames` (SNAC's depth-first interleave of scales).
            start: first id, for models that keep lower ids for text.

        Returns:
            (B, L) int64; L = N * Q, or (N + Q - 1) * Q for `delay`.

        Raises:
            ValueError: an index is outside its codebook, or the order does not fit the scales.
        """
        return streams.to_ids(self.indices, self.mask, self.codebook_sizes, self._ranges(), order, start)

    @classmethod
    def from_ids(
        cls,
        ids: Tensor,
        codebook_sizes: Sequence[int],
        order: streams.StreamOrder = "flat",
        start: int = 0,
        *,
        scales: Sequence[int] = (),
        distinct_scales: bool = False,
        token_order: Order = "raster",
        size: Tensor | None = None,
        positions: Tensor | None = None,
        durations: Tensor | None = None,
        gains: Tensor | None = None,
    ) -> Self:
        """The exact inverse of `to_ids`.

        Args:
            ids: (B, L) int64.
            codebook_sizes, order, start: as they were given to `to_ids`.
            scales, distinct_scales, token_order, size, positions, durations, gains: fields of the result.

        Raises:
            ValueError: L fits no N, an id stands where its codebook cannot, or an item has a gap.
        """
        sizes, parts = tuple(codebook_sizes), tuple(scales)
        ranges = streams.Ranges(parts, distinct_scales)
        indices, mask = streams.from_ids(ids, sizes, ranges, order, start)
        lengths = _lengths(mask, parts)
        return cls(
            indices, sizes, lengths, size, None, parts, distinct_scales, token_order, positions, durations, gains
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """All tensors on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """All tensors in page-locked memory, as a DataLoader with `pin_memory=True` asks for."""
        return self._map(lambda tensor: tensor.pin_memory())

    @classmethod
    def cat(cls, batches: Sequence[Self]) -> Self:
        """One batch out of several; also a `collate_fn` for a DataLoader of tokens.

        Shorter batches are padded with zeros and `lengths` says so; so are shorter `gains`.

        Raises:
            ValueError: no batches, different codebooks, orders or scales, or only some have size, latents, durations or
                gains.
        """
        if not batches:
            raise ValueError("cat needs at least one batch")
        first, width = batches[0], max(batch.num_tokens for batch in batches)
        longest = next(batch for batch in batches if batch.num_tokens == width)
        for batch in batches:
            for name in ("codebook_sizes", "distinct_scales", "order"):
                if getattr(batch, name) != getattr(first, name):
                    raise ValueError(
                        f"cannot join tokens with {name} {getattr(first, name)} and {getattr(batch, name)}"
                    )
            if batch.scales != _cut(longest.scales, batch.num_tokens):
                raise ValueError(f"cannot join tokens with scales {longest.scales} and {batch.scales}")

        def joined(name: str, width: int | None = None) -> Tensor | None:
            tensors = [getattr(batch, name) for batch in batches]
            if all(tensor is None for tensor in tensors):
                return None
            if any(tensor is None for tensor in tensors):
                raise ValueError(f"cannot join tokens with and without {name}")
            return torch.cat(tensors if width is None else [_widen(tensor, width) for tensor in tensors])

        mask = torch.cat([_widen(batch.mask, width) for batch in batches])
        return cls(
            indices=torch.cat([_widen(batch.indices, width) for batch in batches]),
            codebook_sizes=first.codebook_sizes,
            lengths=_lengths(mask, longest.scales),
            size=joined("size"),
            latents=joined("latents", width),
            scales=longest.scales,
            distinct_scales=first.distinct_scales,
            order=first.order,
            positions=_cat_places(batches, width),
            durations=joined("durations", width),
            gains=joined("gains", max(0 if batch.gains is None else batch.gains.shape[1] for batch in batches)),
        )

    def equal(self, other: Tokens) -> bool:
        """Whether layout and valid codes, latents, sizes, places, durations and gains are the same.

        What lies past `lengths` does not count.
        """
        if any(getattr(self, name) != getattr(other, name) for name in _LAYOUT):
            return False
        if self.indices.shape != other.indices.shape or not torch.equal(self.mask, other.mask):
            return False
        past = ~self.mask
        if not torch.equal(_places(self).masked_fill(past, 0), _places(other).masked_fill(past, 0)):
            return False
        for name in ("indices", "latents", "durations"):
            if not _equal_optional(_blank(getattr(self, name), past), _blank(getattr(other, name), past)):
                return False
        return _equal_optional(self.size, other.size) and _equal_optional(self.gains, other.gains)

    def save(self, path: str | Path, **metadata: str) -> None:
        """Write a safetensors file; indices take the smallest integer type that holds their codebooks.

        Args:
            path: file to write (replaced in one step).
            metadata: text kept beside the codes, such as the model's name.
        """
        from safetensors.torch import save_file

        from zoo.store.files import replacing

        tensors = {"indices": self.indices.to(_narrow(self.codebook_sizes))}
        for name in _OPTIONAL:
            if (tensor := getattr(self, name)) is not None:
                tensors[name] = tensor
        layout = json.dumps({name: getattr(self, name) for name in _LAYOUT})
        with replacing(path) as draft:
            save_file({name: t.contiguous() for name, t in tensors.items()}, draft, {**metadata, "tokens": layout})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not a token file or is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            layout = json.loads(cls.read_metadata(path)["tokens"])
            tensors = load_file(path)
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a token file written by Tokens.save: {error}") from error
        return cls(
            indices=tensors["indices"].long(),
            codebook_sizes=tuple(layout["codebook_sizes"]),
            scales=tuple(layout["scales"]),
            distinct_scales=layout["distinct_scales"],
            order=layout["order"],
            **{name: tensors.get(name) for name in _OPTIONAL},
        )

    @staticmethod
    def read_metadata(path: str | Path) -> dict[str, str]:
        """The text kept beside the codes, without reading them."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return dict(file.metadata() or {})
        except SafetensorError as error:
            raise ValueError(f"{path} is not a token file written by Tokens.save: {error}") from error

    def _ranges(self) -> streams.Ranges:
        return streams.Ranges(self.scales, self.distinct_scales)

    def _map(self, change: Any) -> Self:
        tensors: Mapping[str, Any] = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


def _brief(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    if value.numel() <= 8:
        return str(value.tolist())
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _lengths(mask: Tensor, scales: tuple[int, ...]) -> Tensor | None:
    """`Tokens.lengths` for valid positions (B, N) bool: None if all are, (B, S) if items do not end at one place."""
    if bool(mask.all()):
        return None
    lengths = mask.sum(1)
    if torch.equal(mask, ~_past(lengths, mask.shape[1])):
        return lengths
    return torch.stack([part.sum(1) for part in mask.split(list(scales), dim=1)], dim=1)


def _past(lengths: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=lengths.device) >= lengths[:, None]


def _cut(scales: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Whole scales within the first `width` positions, then what is left of the one that was cut."""
    kept: list[int] = []
    for scale in scales:
        if (room := width - sum(kept)) <= 0:
            break
        kept.append(min(scale, room))
    return tuple(kept)


def _places(tokens: Tokens) -> Tensor:
    """(B, N) places, where there is no list of them those of a prefix."""
    if tokens.positions is not None:
        return tokens.positions
    return torch.arange(tokens.num_tokens, device=tokens.indices.device).expand(tokens.indices.shape[:2])


def _cat_places(batches: Sequence[Tokens], width: int) -> Tensor | None:
    if all(batch.positions is None for batch in batches):
        return None
    return torch.cat([_widen(_places(batch), width) for batch in batches])


def _bits_of_places(positions: Tensor | None, durations: Tensor | None, mask: Tensor) -> Tensor:
    """(B,) float64: what it takes to say where valid tokens begin, and where they end if they last."""
    count = mask.sum(1).double()
    if mask.shape[1] == 0 or (positions is None and durations is None):
        return torch.zeros_like(count)
    starts = torch.zeros_like(count) if positions is None else positions.masked_fill(~mask, 0).amax(1).double()
    if durations is None:
        return _log2_choose(starts, count - 1)
    lasting = durations.masked_fill(~mask, 0).double()
    if positions is None:
        return _log2_choose(lasting.sum(1) - 1, count - 1)
    last = (mask.sum(1, keepdim=True) - 1).clamp_min(0)
    frames = starts + lasting.gather(1, last)[:, 0]
    return _log2_choose(frames + count - 1, 2 * count - 1)


def _log2_choose(n: Tensor, k: Tensor) -> Tensor:
    k = k.clamp_min(0)
    n = torch.maximum(n, k)
    return (torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)) / math.log(2)


def _widen(tensor: Tensor, width: int) -> Tensor:
    """Zeros behind the second axis, up to a width."""
    return torch.nn.functional.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, width - tensor.shape[1]))


def _blank(tensor: Tensor | None, past: Tensor) -> Tensor | None:
    """Zeros past the ends of items, for (B, N) and (B, N, D)."""
    return None if tensor is None else tensor.masked_fill(past if tensor.ndim == 2 else past[..., None], 0)


def _equal_optional(a: Tensor | None, b: Tensor | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


def _narrow(codebook_sizes: Sequence[int]) -> torch.dtype:
    largest = max(codebook_sizes, default=1)
    for dtype, room in ((torch.uint8, 1 << 8), (torch.uint16, 1 << 16), (torch.int32, 1 << 31)):
        if largest <= room:
            return dtype
    return torch.int64
