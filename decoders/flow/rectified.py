"""Straight paths between data and noise: what a network is shown, what it should say, and how its answer is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

__all__ = ["Noised", "RectifiedFlow", "Times"]

Times = Literal["uniform", "logit_normal", "mode"]
Prediction = Literal["velocity", "clean"]


class Noised(NamedTuple):
    """A training example.

    Attributes:
        noised: (B, ...) the point of the path.
        times: (B,) float32 in [0, 1], 0 clean and 1 noise.
        target: (B, ...) the velocity noise - clean.
    """

    noised: Tensor
    times: Tensor
    target: Tensor


@dataclass(frozen=True)
class RectifiedFlow:
    """x_t = (1 - t) clean + t noise, with the velocity dx/dt = noise - clean (arXiv 2209.03003, 2403.03206).

    Attributes:
        times: how training draws t: "uniform"; "logit_normal", sigmoid(mean + std n); or "mode",
            1 - u - mode_scale (cos^2(pi u / 2) - 1 + u) with uniform u (arXiv 2403.03206, Eq. 20).
        mode_scale: of "mode"; 0 is uniform.
        mean, std: of "logit_normal".
        stratified: spread the draws of a batch evenly over the distribution's quantiles, in random order.
        prediction: what the network says: the "velocity", or the "clean" signal, from which the velocity follows
            (arXiv 2511.13720: easier where a patch has as many values as the network is wide).
        floor: smallest t by which a prediction of the clean signal is divided.
    """

    times: Times = "mode"
    mode_scale: float = 0.25
    mean: float = 0.0
    std: float = 1.0
    stratified: bool = False
    prediction: Prediction = "velocity"
    floor: float = 0.05

    def __post_init__(self) -> None:
        for name, kinds in (("times", Times), ("prediction", Prediction)):
            if (value := getattr(self, name)) not in get_args(kinds):
                raise ValueError(f"RectifiedFlow: {name} is one of {', '.join(get_args(kinds))}, got {value!r}")
        if not 0 < self.floor < 1:
            raise ValueError(f"RectifiedFlow: floor lies in (0, 1), got {self.floor}")
        if self.times == "mode" and not -1 <= self.mode_scale <= 2 / (math.pi - 2):
            raise ValueError(f"RectifiedFlow: mode_scale lies in [-1, {2 / (math.pi - 2):.3f}], got {self.mode_scale}")

    def draw_times(
        self, count: int, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """(count,) float32 times of training examples."""
        source = torch.device(device) if generator is None else generator.device
        u = torch.rand(count, generator=generator, device=source)
        if self.stratified:
            u = (torch.randperm(count, generator=generator, device=source) + u) / count
        u = u.to(device)
        if self.times == "logit_normal":
            normal = torch.special.ndtri(u.clamp(1e-7, 1 - 1e-7))
            return torch.sigmoid(self.mean + self.std * normal)
        if self.times == "mode":
            u = 1 - u - self.mode_scale * (torch.cos(math.pi / 2 * u).square() - 1 + u)
        return u.clamp(0, 1)

    def draw(self, clean: Tensor, *, generator: torch.Generator | None = None) -> Noised:
        """A training example for each item of clean (B, ...)."""
        times = self.draw_times(len(clean), generator=generator, device=clean.device)
        source = clean.device if generator is None else generator.device
        noise = torch.randn(clean.shape, generator=generator, device=source, dtype=torch.float32).to(clean.device)
        return self.noise(clean, noise, times)

    def noise(self, clean: Tensor, noise: Tensor, times: Tensor) -> Noised:
        """The training example at given times (B,) and noise (B, ...)."""
        t = _like(times, clean)
        return Noised((1 - t) * clean.float() + t * noise, times, noise - clean.float())

    def velocity(self, output: Tensor, noised: Tensor, times: Tensor | float) -> Tensor:
        """The velocity that a network's output stands for, float32.

        Args:
            output: (B, ...), what the network said of `noised`.
            noised: (B, ...).
            times: (B,), or one number.
        """
        if self.prediction == "velocity":
            return output.float()
        t = _like(times, noised).clamp_min(self.floor)
        return (noised.float() - output.float()) / t

    @staticmethod
    def clean(velocity: Tensor, noised: Tensor, times: Tensor | float) -> Tensor:
        """Where a straight path through `noised` ends at t = 0."""
        return noised - _like(times, noised) * velocity

    @staticmethod
    def loss(velocity: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean squared error () of velocities (B, ...), with a weight (B,) for each item or None."""
        errors = (velocity.float() - target.float()).square().flatten(1).mean(1)
        return errors.mean() if weights is None else (errors * weights).mean()


def _like(times: Tensor | float | Sequence[float], x: Tensor) -> Tensor:
    """Times (B,) or () as float32 that broadcast over x (B, ...)."""
    times = torch.as_tensor(times, dtype=torch.float32, device=x.device)
    return times.reshape(-1, *(1,) * (x.ndim - 1))
