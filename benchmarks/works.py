"""The rows of `benchmarks/quantizers.py`: each quantizer, its counterpart at the same settings, floor and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import vector_quantize_pytorch as vqp
from torch import nn

from benchmarks.floors import ElementwiseFloor, EntropyFloor, Floor, MappedSearchFloor, ScaledSearchFloor, SearchFloor
from quantizers import BSQ, FSQ, LFQ, VQ, MultiScaleVQ, Product, Quantizer, Residual, SimVQ

__all__ = ["Work", "works"]

Precision = Literal["float32", "tf32", "bfloat16"]
SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
# N x K float32 tensors that vector-quantize-pytorch 1.32 holds at a time: encode, train
VQ_COPIES, RVQ_COPIES, SIMVQ_COPIES, LFQ_COPIES = (4, 6), (7, 9), (2, 2), (0, 7)


@dataclass(frozen=True)
class Work:
    """One row of the table.

    Attributes:
        name: what is quantized.
        dim: width of the latents.
        tokens: number of latents N.
        ours: builds the quantizer.
        floor: builds the floor on a device.
        library: builds its counterpart in vector-quantize-pytorch; None where it has none.
        scores: entries of its N x K matrix.
        copies: how many of them it holds at a time: encode, train.
        faster: times by which ours has to be faster: encode, train.
        lighter: times by which ours has to need less memory.
        batch: items that the latents are divided into.
    """

    name: str
    dim: int
    tokens: int
    ours: Callable[[], Quantizer]
    floor: Callable[[torch.device], Floor]
    library: Callable[[], nn.Module] | None = None
    scores: int = 0
    copies: tuple[int, int] = (0, 0)
    faster: tuple[float, float] = (1.0, 1.0)
    lighter: float = 0.0
    batch: int = 1


def works(tokens: int, precision: Precision = "float32") -> Iterator[Work]:
    """All rows of the table.

    Args:
        tokens: latents N, where the row does not name another number.
        precision: of the products by which our VQ and its residuals search.
    """
    ema = partial(VQ, learn="ema", decay=0.99, commitment=0.25, precision=precision)
    plain = {"decay": 0.99, "commitment_weight": 0.25, "rotation_trick": False}
    for size in (1024, 4096, 16384, 65536):
        for dim in (8, 64, 256):
            yield Work(
                f"VQ K={size} D={dim}",
                dim,
                tokens,
                partial(ema, dim, size),
                partial(SearchFloor, [(tokens, size, dim)]),
                partial(vqp.VectorQuantize, dim=dim, codebook_size=size, threshold_ema_dead_code=0, **plain),
                tokens * size,
                VQ_COPIES,
                (5, 6) if size >= 16384 else (1, 1),
                50 if size >= 16384 else 0,
            )
    rvq = {"codebook_size": 1024, "threshold_ema_dead_code": 0, **plain}
    yield Work(
        "RVQ 8x1024 D=128",
        128,
        tokens,
        lambda: Residual(ema(128, 1024), 8),
        partial(SearchFloor, [(tokens, 1024, 128)] * 8),
        partial(vqp.ResidualVQ, dim=128, num_quantizers=8, **rvq),
        tokens * 1024,
        RVQ_COPIES,
        (5, 5),
    )
    yield Work(
        "grouped RVQ 2x4x1024 D=128",
        128,
        tokens,
        lambda: Product(Residual(ema(64, 1024), 4), 2),
        partial(SearchFloor, [(tokens, 1024, 64)] * 8),
        partial(vqp.GroupedResidualVQ, dim=128, groups=2, num_quantizers=4, **rvq),
        tokens * 1024,
        RVQ_COPIES,
        (5, 5),
    )
    yield Work(
        "SimVQ K=16384 D=64",
        64,
        tokens,
        partial(SimVQ, 64, 16384),
        partial(MappedSearchFloor, (tokens, 16384, 64)),
        partial(vqp.SimVQ, dim=64, codebook_size=16384, rotation_trick=False),
        tokens * 16384,
        SIMVQ_COPIES,
        (2, 2),
    )
    images = max(1, tokens // 1024)
    yield Work(
        f"multi-scale 1..16 K=4096 D=32 B={images}",
        32,
        images * 256,
        lambda: MultiScaleVQ(VQ(32, 4096), SCALES),
        partial(ScaledSearchFloor, SCALES, images, 4096, 32),
        batch=images,
    )
    levels, one_pass = [8, 8, 8, 5, 5, 5], partial(ElementwiseFloor, (tokens, 6))
    yield Work("FSQ 64k", 6, tokens, partial(FSQ, levels), one_pass, partial(vqp.FSQ, levels))
    few = min(128, tokens)
    for bits, count in ((10, tokens), (14, tokens), (18, few), (18, tokens)):
        yield binary(f"LFQ 2^{bits}", bits, count, partial(LFQ, bits, first_bit="most", temperature=0.01), False)
    for count in (few, tokens):
        same = partial(BSQ, 18, commitment=0.25 / 18, temperature=0.01, entropy_bits=18)
        yield binary("BSQ 2^18", 18, count, same, True)


def binary(name: str, bits: int, count: int, ours: Callable[[], Quantizer], spherical: bool) -> Work:
    """A row of LFQ or BSQ with its entropy terms."""
    return Work(
        f"{name} entropy N={count}",
        bits,
        count,
        ours,
        partial(EntropyFloor, (count, bits)),
        partial(vqp.LFQ, dim=bits, codebook_size=2**bits, commitment_loss_weight=0.25, spherical=spherical),
        count * 2**bits,
        LFQ_COPIES,
        (1, 50) if bits == 18 else (1, 1),
    )
