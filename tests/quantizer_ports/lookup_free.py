"""Lookup-free quantizers: grouped (WeTok) and binary spherical (BSQ-ViT)."""

from .common import Check

PORTS: dict[str, Check] = {}
