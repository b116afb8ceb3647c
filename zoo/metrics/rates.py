"""What codes cost: as stored, as their frequencies allow, and as an adaptive coder or a file format packs them."""

from __future__ import annotations

import hashlib
import lzma
import math
import zlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from zoo.metrics.coder import cheapest_increment, huffman_bits
from zoo.metrics.codes import miller_madow
from zoo.metrics.strands import strands
from zoo.metrics.tables import TableMetric, by_book
from zoo.tokens import Tokens

__all__ = ["CodeCompression", "CodeRate"]

Context = Literal["codebook", "position", "previous"]
Per = Literal["item", "extent", "kilo"]
_DTYPES = (np.uint8, np.uint16, np.uint32, np.int64)


class CodeRate(TableMetric):
    """Bits of items, four ways.

    What places and durations cost (`Tokens.bits`) is part of all four. Sums are divided once, at the end: long items
    weigh more.

    Args:
        codebook_sizes: as `zoo.metrics.alphabets(spec)` gives them.
        context: what the adaptive coder knows of a code: its "codebook"; also its "position" among the N; or also the
            code before it ("previous").
        per: bits of an "item"; of a unit of "extent" (bits per pixel); or "kilo", 1000 of them (kbit/s).
        **kwargs: of `torchmetrics.Metric`.
    """

    bits: Tensor
    codes: Tensor
    extent: Tensor
    items: Tensor
    tokens: Tensor

    def __init__(
        self, codebook_sizes: Sequence[int], *, context: Context = "codebook", per: Per = "item", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if context not in get_args(Context) or per not in get_args(Per):
            raise ValueError(f"context is one of {get_args(Context)} and per of {get_args(Per)}, got {context}, {per}")
        self.codebook_sizes = tuple(codebook_sizes)
        self.context, self.per = context, per
        self.add_table("seen", 3)
        for name in ("bits", "codes", "extent"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("items", "tokens"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, tokens: Tokens, extent: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            tokens: of B items.
            extent: (B,) pixels or seconds of each; needed unless `per` is "item".

        Raises:
            ValueError: codes of other codebooks, or an extent that is missing, not positive or of another size.
        """
        if self.per != "item" and extent is None:
            raise ValueError(f"bits per {self.per} need extent= (B,), the pixels or seconds of each item")
        if extent is not None and (extent.shape != (len(tokens),) or not bool((extent > 0).all())):
            raise ValueError(f"expected extent ({len(tokens)},) above 0, got {tuple(extent.shape)}: {extent.tolist()}")
        for strand in strands(tokens, self.codebook_sizes):
            if self.context == "previous":
                before = torch.cat([torch.full_like(strand.codes[:, :1], -1), strand.codes[:, :-1]], dim=1)
                known = before[strand.mask]
            else:
                known = strand.flat_places * (self.context == "position")
            self.count("seen", torch.tensor(strand.book, device=known.device), known, strand.flat)
        device = self.bits.device
        bits, positions = tokens.bits().sum().to(device), tokens.mask.sum().to(device)
        self.bits += bits
        self.codes += positions.double() * sum(math.log2(size) for size in tokens.codebook_sizes)
        self.extent += 0 if extent is None else extent.double().sum().to(device)
        self.items += len(tokens)
        self.tokens += positions

    def compute(self) -> dict[str, Tensor]:
        """() float64 each, 0 where nothing was counted.

        Returns:
            `nominal`: log2 of the codebooks' sizes. `entropy`: what the codes' frequencies allow, corrected by
            `miller_madow`. `huffman`: an optimal prefix code of them, without its table. `coded`: an adaptive range
            coder that starts without any table, on all items one after the other, at the increment that suits each
            codebook best (`zoo.metrics.coder`). `tokens`:
            positions per item, or per unit of extent. `positions`: () int64, all that were counted.
        """
        size_of = self.codebook_sizes
        totals = {
            "nominal": self.codes,
            **{name: torch.zeros_like(self.codes) for name in ("entropy", "huffman", "coded")},
        }
        for book, part in enumerate(by_book(self.table("seen"), len(size_of))):
            codes, place = part[:, 1].unique(return_inverse=True)
            counts = torch.zeros_like(codes).index_add_(0, place, part[:, 2])
            totals["entropy"] = totals["entropy"] + miller_madow(counts, size_of[book]) * counts.sum()
            totals["huffman"] = totals["huffman"] + huffman_bits(counts).to(self.codes)
            totals["coded"] = totals["coded"] + cheapest_increment(part[:, 2], size_of[book], part[:, 0])[1]
        over = self.items.double() if self.per == "item" else self.extent * (1000 if self.per == "kilo" else 1)
        rates = {name: (bits + self.bits - self.codes) / over.clamp_min(1e-300) for name, bits in totals.items()}
        count = self.items.double() if self.per == "item" else self.extent
        return {**rates, "tokens": self.tokens / count.clamp_min(1e-300), "positions": self.tokens.clone()}


class CodeCompression(Metric):
    """Share of the nominal bits that compressors save: the "compression rate" of arXiv 2411.05001, and what files do.

    Every code is kept, in 1, 2, 4 or 8 bytes. General compressors read them in that form, item after item; items are
    ordered by the digest of their codes, so that the result depends on neither batches nor ranks.

    Args:
        codebook_sizes: as `zoo.metrics.alphabets(spec)` gives them.
        **kwargs: of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def __init__(self, codebook_sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codebook_sizes = tuple(codebook_sizes)
        for book in range(len(self.codebook_sizes)):
            self.add_state(f"codes_{book}", [], dist_reduce_fx="cat")
            self.add_state(f"lengths_{book}", [], dist_reduce_fx="cat")
        self._open()

    def update(self, tokens: Tokens) -> None:
        """Keep the codes of a batch.

        Raises:
            ValueError: codes of other codebooks.
        """
        for strand in strands(tokens, self.codebook_sizes):
            values = strand.flat.cpu().numpy().astype(_storage(self.codebook_sizes[strand.book]))
            packed = torch.from_numpy(np.frombuffer(values.tobytes(), np.uint8).copy())
            getattr(self, f"codes_{strand.book}").append(packed.to(self.device))
            getattr(self, f"lengths_{strand.book}").append(strand.mask.sum(1).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """() float64 each: 0 saves nothing, 1 would save all, below 0 is larger than nominal; 0 without codes.

        Returns:
            `huffman`, without its table; `adaptive`, a range coder that learns (`zoo.metrics.coder`); `zlib` and
            `lzma`, at their highest levels, of the codes in whole bytes.
        """
        names = ("huffman", "adaptive", "zlib", "lzma")
        nominal, bits = 0.0, dict.fromkeys(names, 0.0)
        for book, size in enumerate(self.codebook_sizes):
            data = self._data(book)
            values = np.frombuffer(data, _storage(size)).astype(np.int64)
            counts = torch.from_numpy(values).unique(return_counts=True)[1]
            nominal += len(values) * math.log2(size)
            bits["huffman"] += float(huffman_bits(counts))
            bits["adaptive"] += float(cheapest_increment(counts, size)[1])
            bits["zlib"] += 8 * len(zlib.compress(data, 9)) if data else 0
            bits["lzma"] += 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) if data else 0
        return {
            name: torch.tensor(1 - spent / nominal if nominal else 0.0, dtype=torch.float64)
            for name, spent in bits.items()
        }

    def reset(self) -> None:
        """Forget all codes."""
        super().reset()
        self._open()

    def _open(self) -> None:
        """Start the lists with nothing in them: an empty list would be synchronised as float32."""
        for book in range(len(self.codebook_sizes)):
            getattr(self, f"codes_{book}").append(torch.zeros(0, dtype=torch.uint8, device=self.device))
            getattr(self, f"lengths_{book}").append(torch.zeros(0, dtype=torch.int64, device=self.device))

    def _data(self, book: int) -> bytes:
        """All items' codes of a codebook, in the order of their digests."""
        data = dim_zero_cat(getattr(self, f"codes_{book}")).cpu().numpy().tobytes()
        width = np.dtype(_storage(self.codebook_sizes[book])).itemsize
        ends = (dim_zero_cat(getattr(self, f"lengths_{book}")).cumsum(0) * width).tolist()
        items = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return b"".join(sorted(items, key=lambda item: hashlib.sha256(item).digest()))


def _storage(size: int) -> type[np.unsignedinteger | np.signedinteger]:
    """The smallest type for codes in [0, size)."""
    return next(kind for kind in _DTYPES if size - 1 <= np.iinfo(kind).max)
