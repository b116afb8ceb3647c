"""Shared, projected and product mappings: SimVQ, IBQ, TokenFlow, FQGAN, TokenBridge."""

from .common import Check

PORTS: dict[str, Check] = {}
