"""Tensors that follow from an architecture: built once, stored in no checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

__all__ = ["Fixed"]


class Fixed(nn.Module):
    """A table or mask of a model.

    It follows its model from device to device, keeps its dtype under `.half()` and `.bfloat16()`, has no entry in the
    state dict, and holds real values also when the model is built on the meta device.

    Args:
        make: builds the tensor.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        with torch.device("cpu"):
            self.value = make()

    def forward(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        return self.value.to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        device = fn(self.value).device
        if device.type != "meta":
            self.value = self.value.to(device)
        return super()._apply(fn, *args, **kwargs)
