"""Nearest-code search in blocks: exact float32, little memory, one opaque operator under torch.compile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["nearest_code"]

_CPU_BLOCK = 2**18  # 1 MiB of scores: stays in the cache
_ACCELERATOR_BLOCK = 2**25  # 128 MiB of scores: keeps the device busy


def nearest_code(x: Tensor, codebook: Tensor, *, block_elements: int | None = None) -> Tensor:
    """Index of the code closest to each vector in Euclidean distance.

    Minimises ||e||^2 / 2 - x.e block by block with a running best, so that at most `block_elements` of the N x K scores
    exist at a time. Runs in full float32 even under autocast and with TF32 or bf16 matrix products switched on.
    Equal scores resolve to the lowest index. Carries no gradient.

    Args:
        x: (..., D) vectors, any floating dtype.
        codebook: (K, D) codes.
        block_elements: scores held at a time; by default 2**18 on a CPU and 2**25 elsewhere.

    Returns:
        (...) int64 in [0, K).

    Raises:
        ValueError: widths differ, the codebook is empty, or block_elements < 1.
    """
    if codebook.ndim != 2 or len(codebook) == 0 or x.shape[-1:] != codebook.shape[1:]:
        raise ValueError(
            f"nearest_code expects x (..., D) and a codebook (K, D) with K > 0, got {tuple(x.shape)} and "
            f"{tuple(codebook.shape)}; make the widths agree"
        )
    if block_elements is None:
        block_elements = _CPU_BLOCK if x.device.type == "cpu" else _ACCELERATOR_BLOCK
    elif block_elements < 1:
        raise ValueError(f"block_elements must be at least 1, got {block_elements}; leave it None for the default")
    flat = x.detach().float().reshape(-1, x.shape[-1])
    return _search(flat, codebook.detach().float(), block_elements).view(x.shape[:-1])


@torch.library.custom_op("tokenizer_zoo::nearest_code", mutates_args=())
def _search(x: Tensor, codebook: Tensor, block_elements: int) -> Tensor:
    columns = min(len(codebook), 2 * math.isqrt(block_elements), block_elements)
    rows = max(block_elements // columns, 1)
    with torch.autocast(x.device.type, enabled=False), _full_float32():
        half_norms = codebook.square().sum(1) / 2
        found = [_search_rows(part, codebook, half_norms, columns) for part in x.split(rows)]
    return torch.cat(found)


@_search.register_fake
def _(x: Tensor, codebook: Tensor, block_elements: int) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.int64)


def _search_rows(x: Tensor, codebook: Tensor, half_norms: Tensor, columns: int) -> Tensor:
    best, index = _best_of(x, codebook[:columns], half_norms[:columns])
    for start in range(columns, len(codebook), columns):
        stop = start + columns
        score, candidate = _best_of(x, codebook[start:stop], half_norms[start:stop])
        closer = score < best
        best = torch.where(closer, score, best)
        index = torch.where(closer, candidate + start, index)
    return index


def _best_of(x: Tensor, codes: Tensor, half_norms: Tensor) -> tuple[Tensor, Tensor]:
    best, index = torch.addmm(half_norms, x, codes.T, alpha=-1).min(dim=1)
    return best, index


@contextmanager
def _full_float32() -> Iterator[None]:
    """Switch reduced-precision float32 products off: TF32 flips 0.1 to 0.2 % of the codes."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    saved = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, saved, strict=True):
            backend.fp32_precision = precision
