"""Networks that judge but never learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

__all__ = ["Frozen"]


class Frozen(nn.Module):
    """Holds a network that follows device moves but is no part of the owner's parameters or state dict.

    The network stays in eval mode, its parameters need no gradient and keep float32; gradients flow to its input.

    Args:
        net: the network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # In a tuple: a module attribute would be registered, saved in checkpoints and wrapped by DDP.
        self._hidden = (net.eval().requires_grad_(False),)

    @property
    def net(self) -> nn.Module:
        """The network itself."""
        return self._hidden[0]

    def forward(self, *inputs: Any) -> Any:
        """Whatever the network returns."""
        return self.net(*inputs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(device=moved.device)

        self.net._apply(keep_dtype)
        super()._apply(fn, recurse)
        return self
