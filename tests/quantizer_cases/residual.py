"""Residual and projected quantizers."""

from quantizers import VQ, Projected

from .case import Case

CASES: dict[str, Case] = {
    "projected": Case(lambda: Projected(VQ(4, 40), 6), exact_slices=False, idempotent=False),
    "projected_dac": Case(
        lambda: Projected(VQ(4, 40, metric="cosine"), 6, weight_norm=True), exact_slices=False, idempotent=False
    ),
}
