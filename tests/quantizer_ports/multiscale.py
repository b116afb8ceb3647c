"""Multi-scale residual quantizers: VAR, SNAC."""

from .common import Check

PORTS: dict[str, Check] = {}
