"""What the ports of reference quantizers share."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from quantizers import Quantized, Quantizer

Check = Callable[[dict[str, Any], dict[str, Tensor], dict[str, Tensor]], None]


def assert_close(name: str, actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference within `tolerance` of the largest expected magnitude."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    actual, expected = actual.detach(), expected.detach()
    bound = tolerance * expected.abs().max().item() + 1e-12
    error = (actual - expected).abs().max().item()
    assert error <= bound, f"{name}: off by {error:.3g}, allowed {bound:.3g}"


def allow_only(config: dict[str, Any], **known: set[Any] | None) -> None:
    """Skip a case that uses an option, or a value of one, which this port does not have (None: any value)."""
    for name, value in config.items():
        if name not in known or not (known[name] is None or value in (known[name] or ())):
            pytest.skip(f"option {name}={value!r} of the reference has no port yet")


class Signal:
    """The (B, N, D) view of a reference tensor (B, D, *grid), and the way back."""

    def __init__(self, latents: Tensor, channel_first: bool) -> None:
        self.grid = latents.shape[2:] if channel_first else None

    def flat(self, x: Tensor) -> Tensor:
        return x if self.grid is None else x.flatten(2).mT

    def like(self, x: Tensor) -> Tensor:
        return x if self.grid is None else x.mT.unflatten(-1, self.grid)


class Projected(nn.Module):
    """Linear maps around a quantizer where the reference has its own."""

    def __init__(self, quantizer: Quantizer, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.project_in: nn.Module = self.projection("project_in", state)
        self.project_out: nn.Module = self.projection("project_out", state)

    @staticmethod
    def projection(name: str, state: dict[str, Tensor]) -> nn.Module:
        weight = state.get(f"{name}.weight")
        if weight is None:
            return nn.Identity()
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({key: state[f"{name}.{key}"] for key in ("weight", "bias")})
        return layer

    def forward(self, z: Tensor) -> tuple[Tensor, Quantized]:
        out = self.quantizer(self.project_in(z))
        return self.project_out(out.latents), out

    def lookup(self, indices: Tensor) -> Tensor:
        return self.project_out(self.quantizer.lookup(indices))


def load(quantizer: Quantizer, state: dict[str, Tensor]) -> None:
    quantizer.load_state_dict(state, strict=True)
