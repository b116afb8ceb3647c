"""Quantizers: latents (B, N, D) to indices (B, N, Q) and back, one protocol for all."""

from .adapter import VectorQuantizePytorch
from .base import Quantized, Quantizer
from .bsq import BSQ
from .clustering import ClusteringVQ
from .dimensionwise import DimensionWise
from .fsq import FSQ
from .gumbel import Gumbel
from .ibq import IBQ
from .identity import Identity
from .kl import KL
from .lfq import LFQ
from .multirate import MultiRate
from .multiscale import MultiScaleVQ
from .packing import pack, unpack
from .product import Product
from .projected import Projected
from .random_projection import RandomProjection
from .residual import Residual
from .residual_fsq import ResidualFSQ
from .shared import SharedVQ
from .simvq import SimVQ
from .split import SplitResidual
from .vq import VQ
from .vvq import VVQ

__all__ = [
    "BSQ",
    "FSQ",
    "IBQ",
    "KL",
    "LFQ",
    "VQ",
    "VVQ",
    "ClusteringVQ",
    "MultiRate",
    "MultiScaleVQ",
    "DimensionWise",
    "Gumbel",
    "Identity",
    "Product",
    "Projected",
    "Quantized",
    "Quantizer",
    "RandomProjection",
    "Residual",
    "ResidualFSQ",
    "SharedVQ",
    "SimVQ",
    "SplitResidual",
    "VectorQuantizePytorch",
    "pack",
    "unpack",
]
