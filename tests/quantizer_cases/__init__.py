"""Every kind of quantizer at a small size, for the contract tests."""

from . import adapter, basic, lookup_free, mappings, multiscale, residual
from .case import Case

__all__ = ["CASES", "Case"]

CASES: dict[str, Case] = {
    **basic.CASES,
    **residual.CASES,
    **multiscale.CASES,
    **lookup_free.CASES,
    **mappings.CASES,
    **adapter.CASES,
}
