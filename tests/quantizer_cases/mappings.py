"""Shared, projected, product and random mappings."""

from quantizers import (
    FSQ,
    IBQ,
    VQ,
    DimensionWise,
    Gumbel,
    Product,
    RandomProjection,
    Residual,
    SharedVQ,
    SimVQ,
)

from .case import Case

CASES: dict[str, Case] = {
    "simvq": Case(lambda: SimVQ(6, 40), state=True),
    "simvq_rotation": Case(lambda: SimVQ(6, 40, 9, estimator="rotation")),
    # IBQ, Gumbel and random projections choose by a score under which another code may win over itself.
    "ibq": Case(lambda: IBQ(6, 40), idempotent=False),
    "ibq_cosine": Case(lambda: IBQ(6, 40, metric="cosine", entropy=0.0), idempotent=False),
    "shared": Case(lambda: SharedVQ((4, 3), 40, weights=(1, 0.5), entropy=0.1)),
    "shared_ema": Case(
        lambda: SharedVQ((4, 3), 40, learn="ema", kmeans_init=True, dead_code_threshold=0.1, entropy=0.1), state=True
    ),
    "product_heads": Case(lambda: Product(VQ(3, 20, learn="ema", dead_code_threshold=0.1), 3), state=True),
    "product_shared": Case(lambda: Product(VQ(3, 20, learn="ema"), 3, shared=True), state=True),
    "product_factorized": Case(
        lambda: Product(
            [VQ(4, 20, normalize=True, entropy=0.1), VQ(4, 30, normalize=True)], disentanglement=0.1, reduce="sum"
        )
    ),
    "product_mixed": Case(lambda: Product([FSQ([5, 3]), VQ(4, 20)]), idempotent=False),
    "product_grouped_residual": Case(lambda: Product(Residual(VQ(3, 20), 2), 2), idempotent=False),
    "gumbel": Case(lambda: Gumbel(4, 40, input_dim=6), idempotent=False, random=True),
    "gumbel_soft": Case(lambda: Gumbel(6, 40, hard=False), idempotent=False, codes_in_training=False, random=True),
    "random_projection": Case(
        lambda: RandomProjection(6, 3, 20, num_codebooks=2), idempotent=False, differentiable=False, state=True
    ),
    "random_projection_estimated": Case(
        lambda: RandomProjection(6, 3, 20, norm=False, estimator="straight_through"), idempotent=False
    ),
    "dimensionwise": Case(lambda: DimensionWise(5, 3)),
}
