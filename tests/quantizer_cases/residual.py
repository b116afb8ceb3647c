"""Residual and projected quantizers."""

from quantizers import LFQ, VQ, Projected, Residual, ResidualFSQ, SplitResidual

from .case import Case


def _dac() -> Projected:
    return Projected(VQ(4, 40, metric="cosine"), 6, weight_norm=True)


def _split() -> SplitResidual:
    book = {"learn": "ema", "dead_code_threshold": 0.1, "dead_code_interval": 2}
    return SplitResidual([Projected(Residual(VQ(4, 40, **book), count), 6, bias=False) for count in (1, 3)])


CASES: dict[str, Case] = {
    "projected": Case(lambda: Projected(VQ(4, 40), 6), exact_slices=False, idempotent=False),
    "projected_dac": Case(_dac, exact_slices=False, idempotent=False),
    "residual": Case(lambda: Residual(VQ(6, 40), 3), idempotent=False),
    "residual_ema": Case(
        lambda: Residual(VQ(6, 40, learn="ema", kmeans_init=True, dead_code_threshold=0.1, estimator="rotation"), 3),
        idempotent=False,
        state=True,
    ),
    "residual_shared": Case(
        lambda: Residual(VQ(6, 40, learn="ema", kmeans_init=True, dead_code_threshold=0.1), 3, shared=True),
        idempotent=False,
        state=True,
    ),
    "residual_per_level": Case(lambda: Residual(LFQ(5), 2, gradient="per_level", reduce="sum"), idempotent=False),
    "residual_taps": Case(lambda: Residual([VQ(6, size) for size in (40, 20, 10, 5)], taps=(2, 4)), idempotent=False),
    "residual_dac": Case(
        lambda: Residual(_dac(), 3, gradient="chained", reduce="sum", quantize_dropout=0.5),
        exact_slices=False,
        idempotent=False,
        codes_in_training=False,  # it drops levels
        random=True,
    ),
    "residual_fsq": Case(lambda: ResidualFSQ([5, 4, 3], 3), idempotent=False),
    "split_residual": Case(_split, exact_slices=False, idempotent=False, state=True),
}
