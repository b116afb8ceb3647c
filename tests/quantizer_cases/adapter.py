"""Quantizers of vector-quantize-pytorch behind the protocol."""

from functools import partial
from typing import Any

from quantizers import VectorQuantizePytorch

from .case import Case


def case(name: str, options: dict[str, Any], estimator: Any = "library", **flags: Any) -> Case:
    """A case with what the library cannot do: straight-through values are off the code by a rounding."""
    known = {"exact_slices": False, "idempotent": False, "codes_in_training": False, "compiles": False}
    return Case(partial(VectorQuantizePytorch, name, options, estimator=estimator), **{**known, **flags})


CASES: dict[str, Case] = {
    "adapter_vq": case(
        "VectorQuantize",
        {"dim": 6, "codebook_size": 40, "kmeans_init": True, "threshold_ema_dead_code": 1},
        state=True,
    ),
    "adapter_vq_cosine": case(
        "VectorQuantize", {"dim": 6, "codebook_size": 40, "codebook_dim": 4, "use_cosine_sim": True}, state=True
    ),
    "adapter_vq_heads": case("VectorQuantize", {"dim": 6, "codebook_size": 40, "codebook_dim": 3, "heads": 2}),
    "adapter_residual_vq": case(
        "ResidualVQ",
        {"dim": 6, "codebook_size": 40, "num_quantizers": 3, "kmeans_init": True, "threshold_ema_dead_code": 1},
        "straight_through",
        state=True,
    ),
    "adapter_grouped_residual_vq": case(
        "GroupedResidualVQ", {"dim": 6, "groups": 2, "codebook_size": 20, "num_quantizers": 2}, state=True
    ),
    "adapter_simvq": case("SimVQ", {"dim": 6, "codebook_size": 40}, "rotation"),
    "adapter_fsq": case("FSQ", {"levels": [8, 5, 5], "dim": 6}),
    "adapter_residual_fsq": case("ResidualFSQ", {"levels": [5, 5, 3], "num_quantizers": 2}),
    "adapter_lfq": case("LFQ", {"codebook_size": 16, "num_codebooks": 2, "spherical": True}),
}
