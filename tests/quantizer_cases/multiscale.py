"""Quantizers of several scales."""

from .case import Case

CASES: dict[str, Case] = {}
