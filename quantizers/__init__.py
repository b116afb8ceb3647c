"""Quantizers: latents (B, N, D) to indices (B, N, Q) and back, one protocol for all."""

from .base import Quantized, Quantizer
from .fsq import FSQ
from .kl import KL
from .lfq import LFQ
from .packing import pack, unpack
from .projected import Projected
from .vq import VQ

__all__ = ["FSQ", "KL", "LFQ", "VQ", "Projected", "Quantized", "Quantizer", "pack", "unpack"]
