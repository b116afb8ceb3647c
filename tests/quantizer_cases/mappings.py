"""Shared, projected and product mappings."""

from .case import Case

CASES: dict[str, Case] = {}
