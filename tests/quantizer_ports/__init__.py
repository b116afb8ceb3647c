"""Checks of our quantizers against reference cases, keyed by the class of the reference."""

from . import lookup_free, mappings, multiscale, residual, single_step, vqp

__all__ = ["PORTS"]

PORTS = {
    **vqp.PORTS,
    **single_step.PORTS,
    **residual.PORTS,
    **multiscale.PORTS,
    **lookup_free.PORTS,
    **mappings.PORTS,
}
