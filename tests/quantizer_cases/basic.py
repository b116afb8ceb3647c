"""A codebook of vectors, and the bottlenecks without codes."""

from quantizers import KL, VQ, ClusteringVQ, Identity

from .case import Case

CASES: dict[str, Case] = {
    "vq": Case(lambda: VQ(6, 40)),
    "vq_cosine": Case(lambda: VQ(6, 40, normalize=True)),
    "vq_cosine_metric": Case(lambda: VQ(6, 40, metric="cosine")),
    "vq_bfloat16": Case(lambda: VQ(6, 40, precision="bfloat16")),
    "vq_rotation": Case(lambda: VQ(6, 40, estimator="rotation")),
    "vq_ema": Case(lambda: VQ(6, 40, learn="ema", dead_code_threshold=0.1), state=True),
    "vq_ema_cosine": Case(lambda: VQ(6, 40, learn="ema", normalize=True), state=True),
    "vq_ema_entropy": Case(lambda: VQ(6, 40, learn="ema", entropy=0.1), state=True),
    "vq_norm_ema": Case(lambda: VQ(6, 40, learn="norm_ema", normalize=True, dead_code_threshold=0.1), state=True),
    "vq_kmeans": Case(lambda: VQ(6, 40, kmeans_init=True), state=True),
    "vq_kmeans_ema": Case(
        lambda: VQ(6, 40, learn="ema", kmeans_init=True, dead_code_threshold=0.1, dead_code_interval=2), state=True
    ),
    "vq_entropy": Case(lambda: VQ(6, 40, entropy=0.1)),
    "vq_orthogonal": Case(
        lambda: VQ(6, 40, orthogonality=1.0, dead_code_threshold=0.1), state=True, constant_loss=True
    ),
    "clustering_vq": Case(lambda: ClusteringVQ(6, 40), state=True),
    "identity": Case(lambda: Identity(6), continuous=True, codes_in_training=False),
    "kl": Case(lambda: KL(4), continuous=True, idempotent=False, codes_in_training=False, random=True),
}
