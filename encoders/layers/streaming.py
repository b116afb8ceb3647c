"""What causal layers remember between the chunks of a signal that arrives piece by piece."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Stream", "align"]


class Stream:
    """The memory of one signal's passage through a network, a value for each module that needs one.

    A streamable layer takes `forward(x, ..., stream=None)`. With a stream it reads x as the continuation of what it has
    seen, returns the outputs that no later input can change, perhaps none (a tensor of length 0), and keeps the rest.

    Attributes:
        last: True for the final chunk: layers then return all they have kept back.
    """

    def __init__(self) -> None:
        self.last = False
        self._kept: dict[nn.Module, Any] = {}

    def get(self, module: nn.Module, default: Any = None) -> Any:
        """What `module` put here at the last chunk."""
        return self._kept.get(module, default)

    def put(self, module: nn.Module, value: Any) -> None:
        """Keep `value` for the next chunk."""
        self._kept[module] = value


def align(module: nn.Module, stream: Stream, late: Tensor, early: Tensor) -> Tensor:
    """The steps of `early` (B, C, T) that belong to those of `late` (B, C, T'), which a layer may have kept back.

    Steps that are ahead wait in the stream under `module`.
    """
    kept = stream.get(module)
    if kept is not None:
        early = torch.cat((kept, early), dim=-1)
    count = late.shape[-1]
    stream.put(module, early[..., count:].clone() if early.shape[-1] > count else None)
    return early[..., :count]
