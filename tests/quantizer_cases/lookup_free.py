"""Quantizers without a codebook to search."""

from quantizers import FSQ, LFQ

from .case import Case

CASES: dict[str, Case] = {
    "fsq": Case(lambda: FSQ([8, 5, 4]), idempotent=False),  # it bounds its input
    "fsq_symmetric": Case(lambda: FSQ([8, 5, 4, 2], symmetric=True), idempotent=False),
    "lfq": Case(lambda: LFQ(5)),
    "lfq_most": Case(lambda: LFQ(5, first_bit="most", entropy_floor="clamp")),
    "lfq_spherical": Case(lambda: LFQ(4, num_codebooks=3, spherical=True)),
    "lfq_wide": Case(lambda: LFQ(40, entropy_bits=10)),
}
