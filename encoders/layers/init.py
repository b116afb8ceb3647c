"""Initialisation shared by encoders and decoders."""

from __future__ import annotations

from torch import nn

__all__ = ["start_at_zero"]


def start_at_zero(module: nn.Module) -> None:
    """Set all parameters of a layer to zero, so that what it is added to starts unchanged."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
