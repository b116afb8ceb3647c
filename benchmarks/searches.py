"""Nearest-code search by precision, against the machine: the part of `benchmarks/quantizers.py` behind --search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.meters import contest, peak_bytes
from benchmarks.works import Precision
from quantizers.nearest import nearest_code

__all__ = ["HEAD", "Search", "searches"]

SIZES = (16384, 65536, 262144)
WIDTHS = (8, 64, 256)
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")
MATRIX = {"cpu": 512, "cuda": 8192}  # side of the product that sets the rate
COPIED = {"cpu": 2**24, "cuda": 2**28}  # elements of the copy that sets the bandwidth: more than a cache holds
HEAD = f"{'search':28}" + "".join(
    f"{head:>12}" for head in ("ms", "GFLOP/s", "of peak", "roofline ms", "of roofline", "MiB", "equal codes")
)


@dataclass(frozen=True)
class Search:
    """One measurement.

    Attributes:
        precision: of the matrix product.
        size: codes K.
        dim: width D.
        tokens: vectors N.
        seconds: of one search.
        peak: FLOP/s of a square product in that precision.
        bandwidth: bytes/s of a copy.
        memory: extra bytes.
        equal: share of indices equal to those of "float32".
    """

    precision: str
    size: int
    dim: int
    tokens: int
    seconds: float
    peak: float
    bandwidth: float
    memory: int
    equal: float

    @property
    def roofline(self) -> float:
        """Seconds that the machine needs at least: the product's, or those of reading both operands once."""
        element = 2 if self.precision == "bfloat16" else 4
        moved = element * self.dim * (self.tokens + self.size) + 8 * self.tokens
        return max(2 * self.tokens * self.size * self.dim / self.peak, moved / self.bandwidth)

    def line(self) -> str:
        """A row of the table."""
        work = 2 * self.tokens * self.size * self.dim / self.seconds
        texts = (
            f"{self.seconds * 1e3:,.2f}",
            f"{work / 1e9:,.0f}",
            f"{work / self.peak:.0%}",
            f"{self.roofline * 1e3:,.2f}",
            f"{self.roofline / self.seconds:.0%}",
            f"{self.memory / 2**20:,.1f}",
            f"{self.equal:.4%}",
        )
        name = f"K={self.size} D={self.dim} {self.precision}"
        return f"{name:28}" + "".join(f"{text:>12}" for text in texts)


def searches(
    tokens: int, device: torch.device, repeats: int, budget: float, sizes: Sequence[int] = SIZES
) -> Iterator[Search]:
    """Measure every size, width and precision; the precisions of a size in turns."""
    peaks = {precision: matmul_rate(precision, device, repeats) for precision in PRECISIONS}
    bandwidth = copy_rate(device, repeats)
    for size in sizes:
        for dim in WIDTHS:
            torch.manual_seed(0)
            x, codes = torch.randn(tokens, dim, device=device), torch.randn(size, dim, device=device)
            calls: dict[str, Callable[[], Tensor]] = {
                name: partial(nearest_code, x, codes, precision=name) for name in PRECISIONS
            }
            exact = calls["float32"]()
            memory = {name: peak_bytes(call, device) for name, call in calls.items()}
            equal = {name: float((call() == exact).float().mean()) for name, call in calls.items()}
            best = contest(calls, device, repeats, budget)
            for name in PRECISIONS:
                figures = best[name], peaks[name], bandwidth, memory[name], equal[name]
                yield Search(name, size, dim, tokens, *figures)


def matmul_rate(precision: str, device: torch.device, repeats: int) -> float:
    """FLOP/s of a square product in one precision."""
    side = MATRIX[device.type]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with tf32(precision == "tf32"):
        return 2 * side**3 / contest({"product": lambda: a @ b}, device, repeats, 5)["product"]


def copy_rate(device: torch.device, repeats: int) -> float:
    """Bytes/s read and written by a copy."""
    source = torch.ones(COPIED[device.type], device=device)
    target = torch.empty_like(source)
    return 8 * len(source) / contest({"copy": lambda: target.copy_(source)}, device, repeats, 5)["copy"]


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products of float32 in TF32, or in full precision."""
    backend = torch.backends.cuda.matmul
    saved = backend.fp32_precision
    backend.fp32_precision = "tf32" if on else "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = saved
