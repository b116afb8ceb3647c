"""Quantizers without a codebook to search."""

from quantizers import BSQ, FSQ, LFQ

from .case import Case

CASES: dict[str, Case] = {
    "fsq": Case(lambda: FSQ([8, 5, 4]), idempotent=False),  # it bounds its input
    "fsq_symmetric": Case(lambda: FSQ([8, 5, 4, 2], symmetric=True), idempotent=False),
    "lfq": Case(lambda: LFQ(5)),
    "lfq_most": Case(lambda: LFQ(5, first_bit="most", entropy_floor="clamp")),
    "lfq_pooled": Case(lambda: LFQ(4, num_codebooks=3, entropy_floor="add", pool_groups=True)),
    "lfq_reference": Case(lambda: LFQ(5, entropy_floor="add", reference_bugs=True)),
    "lfq_wide": Case(lambda: LFQ(40, entropy_bits=10)),
    "bsq": Case(lambda: BSQ(6, num_codebooks=2, commitment=0.25, temperature=0.1)),
    "bsq_analytical": Case(lambda: BSQ(8, entropy_bits=1, scaled_gradient=True)),
}
