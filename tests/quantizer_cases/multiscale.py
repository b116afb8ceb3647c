"""Quantizers of several scales."""

from quantizers import BSQ, FSQ, VQ, VVQ, MultiRate, MultiScaleVQ, Projected

from .case import Case

CASES: dict[str, Case] = {
    "multiscale": Case(lambda: MultiScaleVQ(VQ(6, 40), (1, 2, 3, 4)), tokens=16, positionwise=False, idempotent=False),
    "multiscale_line": Case(
        lambda: MultiScaleVQ(VQ(6, 40, metric="cosine"), (1, 3, 7), ndim=1, phis=0),
        positionwise=False,
        idempotent=False,
    ),
    "multiscale_ema": Case(
        lambda: MultiScaleVQ(VQ(6, 40, learn="ema", dead_code_threshold=0.1), (1, (2, 3), (2, 5)), phis=1),
        tokens=10,
        positionwise=False,
        idempotent=False,
        state=True,
    ),
    "multiscale_dead": Case(
        lambda: MultiScaleVQ(VQ(6, 40, normalize=True, dead_code_threshold=0.1), (1, 2, 4), phis=2),
        tokens=16,
        positionwise=False,
        idempotent=False,
        state=True,
    ),
    "multiscale_kmeans": Case(
        lambda: MultiScaleVQ(Projected(VQ(4, 40, learn="ema", kmeans_init=True), 6), (1, 2, 4), phis=3),
        tokens=16,
        positionwise=False,
        idempotent=False,
        state=True,
    ),
    "multiscale_bsq": Case(
        lambda: MultiScaleVQ(BSQ(5), (1, 2, 4)),
        tokens=16,
        positionwise=False,
        idempotent=False,
        inductor_trains=False,
    ),
    "multiscale_fsq": Case(
        lambda: MultiScaleVQ(FSQ([5, 5, 5]), (1, 2, 4), phis=2), tokens=16, positionwise=False, idempotent=False
    ),
    "vvq": Case(lambda: VVQ(VQ(6, 40), (1, 3, 7), phis=2), positionwise=False, idempotent=False, random=True),
    "vvq_standard": Case(
        lambda: VVQ(FSQ([5, 5, 5]), (1, 3, 7), phis=0, deviation=0.01, standardize=0.1),
        positionwise=False,
        idempotent=False,
        random=True,
        state=True,
    ),
    "multirate": Case(
        lambda: MultiRate(VQ(6, 40, learn="ema", dead_code_threshold=0.1), (4, 2, 1)),
        tokens=8,
        positionwise=False,
        idempotent=False,
        state=True,
    ),
    "multirate_snac": Case(
        lambda: MultiRate(
            Projected(VQ(4, 40, metric="cosine"), 6, weight_norm=True), (4, 2, 1), gradient="chained", reduce="sum"
        ),
        tokens=8,
        positionwise=False,
        exact_slices=False,
        idempotent=False,
    ),
}
