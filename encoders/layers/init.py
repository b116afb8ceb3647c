"""Initialisation shared by encoders and decoders."""

from __future__ import annotations

from torch import nn

__all__ = ["draw_normal", "start_at_zero"]


def start_at_zero(module: nn.Module) -> None:
    """Set all parameters of a layer to zero, so that what it is added to starts unchanged."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def draw_normal(module: nn.Module, deviation: float) -> None:
    """Draw the weights of all linear layers from N(0, deviation^2); their biases are zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
