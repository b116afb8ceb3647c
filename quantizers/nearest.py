"""Nearest-code search in blocks: exact float32, little memory, one opaque operator under torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

__all__ = ["nearest_code"]

_CPU_BLOCK = 2**20  # 4 MiB of scores: small enough for the cache, large enough to hide the cost of a call
_ACCELERATOR_BLOCK = 2**25  # 128 MiB of scores: keeps the device busy
_COLUMNS = 4096
_RUN = 64  # codes whose smallest score is found first, by a vectorised reduction
_CANDIDATES = 8


def nearest_code(
    x: Tensor,
    codebook: Tensor,
    *,
    offsets: Tensor | None = None,
    precision: Literal["float32", "tf32", "bfloat16"] = "float32",
    block_elements: int | None = None,
) -> Tensor:
    """Index of the code closest to each vector.

    Minimises |e|^2 / 2 - x.e, half the Euclidean distance but for what depends on x alone, block by block with a
    running best, so that at most `block_elements` of the N x K scores exist at a time. Runs in full float32 even under
    autocast and with TF32 or bf16 matrix products switched on. Equal scores resolve to the lowest index. Carries no
    gradient.

    Args:
        x: (..., D) vectors, any floating dtype.
        codebook: (K, D) codes.
        offsets: (K,) added to -x.e in the place of |e|^2 / 2; zeros find the largest inner product.
        precision: of the matrix product. Below "float32" it only proposes the best 8 codes, whose scores are then
            computed in float32; vectors for which a bound on the rounding cannot exclude a ninth are searched again in
            float32. The index is that of "float32"; what it pays depends on the device, and on how far apart the codes
            are. "tf32" is float32 off CUDA.
        block_elements: scores held at a time; by default 2**20 on a CPU and 2**25 elsewhere.

    Returns:
        (...) int64 in [0, K).

    Raises:
        ValueError: widths differ, the codebook is empty, precision is unknown, or block_elements < 1.
    """
    if codebook.ndim != 2 or len(codebook) == 0 or x.shape[-1:] != codebook.shape[1:]:
        raise ValueError(
            f"nearest_code expects x (..., D) and a codebook (K, D) with K > 0, got {tuple(x.shape)} and "
            f"{tuple(codebook.shape)}; make the widths agree"
        )
    if precision not in ("float32", "tf32", "bfloat16"):
        raise ValueError(f"nearest_code expects precision 'float32', 'tf32' or 'bfloat16', got {precision!r}")
    if offsets is not None and offsets.shape != codebook.shape[:1]:
        raise ValueError(f"nearest_code expects offsets ({len(codebook)},), one a code, got {tuple(offsets.shape)}")
    if block_elements is None:
        block_elements = _CPU_BLOCK if x.device.type == "cpu" else _ACCELERATOR_BLOCK
    elif block_elements < 1:
        raise ValueError(f"block_elements must be at least 1, got {block_elements}; leave it None for the default")
    flat, codes = x.detach().float().reshape(-1, x.shape[-1]), codebook.detach().float()
    offsets = codes.square().sum(1) / 2 if offsets is None else offsets.detach().float()
    return _search(flat, codes, offsets, precision, block_elements).view(x.shape[:-1])


@torch.library.custom_op("tokenizer_zoo::nearest_code", mutates_args=())
def _search(x: Tensor, codebook: Tensor, offsets: Tensor, precision: str, block_elements: int) -> Tensor:
    columns = min(len(codebook), _COLUMNS, block_elements)
    if columns < len(codebook) and columns > _RUN:
        columns -= columns % _RUN
    with torch.autocast(x.device.type, enabled=False), _products(precision):
        if precision == "float32":
            return _exact(x, codebook, offsets, columns, max(block_elements // columns, 1))
        return _rescored(x, codebook, offsets, columns, max(block_elements // columns, 1), precision)


@_search.register_fake
def _(x: Tensor, codebook: Tensor, offsets: Tensor, precision: str, block_elements: int) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.int64)


def _exact(x: Tensor, codebook: Tensor, offsets: Tensor, columns: int, rows: int) -> Tensor:
    index = torch.empty(len(x), dtype=torch.int64, device=x.device)
    run = min(_RUN, columns)
    # Blocks whose width is no multiple of a run are filled up with scores that never win.
    buffer = x.new_empty(min(rows, len(x)), -(-columns // run) * run)
    buffer[:, columns:] = torch.inf
    every = torch.arange(len(buffer), device=x.device)
    for top in range(0, len(x), rows):
        part = x[top : top + rows]
        for start in range(0, len(codebook), columns):
            codes, offset = codebook[start : start + columns], offsets[start : start + columns]
            if len(codes) < columns:
                buffer[:, len(codes) :] = torch.inf
            scores = buffer[: len(part)]
            torch.addmm(offset, part, codes.T, alpha=-1, out=scores[:, : len(codes)])
            runs = scores.unflatten(1, (-1, run))
            score, place = runs.amin(2).min(1)
            found = start + place * run + runs[every[: len(part)], place].min(1).indices
            if start == 0:
                best, chosen = score, found
            else:
                closer = score < best
                best, chosen = torch.where(closer, score, best), torch.where(closer, found, chosen)
        index[top : top + rows] = chosen
    return index


def _rescored(x: Tensor, codebook: Tensor, offsets: Tensor, columns: int, rows: int, precision: str) -> Tensor:
    """The best few by a cheap product, then their exact scores; the exact search where rounding might hide a better."""
    dtype, rounding = (torch.bfloat16, 3 * 2**-9) if precision == "bfloat16" else (torch.float32, 2 * 2**-11)
    low, longest = codebook.to(dtype), codebook.norm(dim=1).max()
    index = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for top in range(0, len(x), rows):
        part = x[top : top + rows]
        scores, places = [], []
        for start in range(0, len(codebook), columns):
            block = offsets[start : start + columns] - part.to(dtype) @ low[start : start + columns].T
            best = block.topk(min(_CANDIDATES, block.shape[1]), dim=1, largest=False)
            scores.append(best.values)
            places.append(best.indices + start)
        proposed = torch.cat(scores, 1).topk(min(_CANDIDATES, len(codebook)), dim=1, largest=False)
        candidates = torch.cat(places, 1).gather(1, proposed.indices).sort(1).values  # ties go to the lowest index
        with _products("float32"):
            exact, at = (offsets[candidates] - torch.einsum("nd,nkd->nk", part, codebook[candidates])).min(1)
            index[top : top + rows] = candidates.gather(1, at[:, None])[:, 0]
            unsure = proposed.values[:, -1] - exact <= 1.01 * rounding * part.norm(dim=1) * longest
            if len(codebook) > _CANDIDATES and bool(unsure.any()):
                again = top + unsure.nonzero()[:, 0]
                index[again] = _exact(x[again], codebook, offsets, columns, rows)
    return index


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """Float32 products in full precision, or TF32 on CUDA: TF32 alone flips 0.1 to 0.2 % of the codes."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    saved = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        if precision == "tf32":
            backends[0].fp32_precision = "tf32"
        yield
    finally:
        for backend, before in zip(backends, saved, strict=True):
            backend.fp32_precision = before
