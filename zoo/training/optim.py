"""AdamW parameter groups and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

__all__ = ["build_optimizer", "decayed_names", "decays", "schedule"]

UNDECAYED = ("bias", "latent_tokens", "mask_token", "embed", "codebook", "norm", "gamma")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to vectors, biases, norms, embeddings and learned tokens (TiTok's rule)."""
    words = name.lower().replace(".", "_").split("_")
    return parameter.ndim >= 2 and "ln" not in words and not any(word in name.lower() for word in UNDECAYED)


def decayed_names(module: nn.Module) -> frozenset[str]:
    """Names of a module's parameters to which weight decay applies."""
    return frozenset(name for name, parameter in module.named_parameters() if decays(name, parameter))


def build_optimizer(
    named: Iterable[tuple[str, nn.Parameter]],
    decayed: Collection[str],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    foreach: bool | None = None,
) -> AdamW:
    """AdamW over the parameters that require gradients, in a decayed and an undecayed group.

    Args:
        named: parameters under their names.
        decayed: names to which `weight_decay` applies.
        lr: highest learning rate.
        betas, eps, weight_decay, foreach: of AdamW.

    Raises:
        ValueError: nothing requires a gradient.
    """
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter is left to train; relax `freeze` or `train_only`")
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained if name in decayed], "weight_decay": weight_decay},
        {"params": [p for name, p in trained if name not in decayed], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps, foreach=foreach)


def schedule(kind: str, *, max_steps: int, warmup_steps: int = 0, final: float = 0.1) -> Callable[[int], float]:
    """Multiplier of the learning rate as a function of the step.

    Args:
        kind: "cosine" falls from 1 to `final` at `max_steps`; "constant" stays at 1.
        max_steps: last step of the training.
        warmup_steps: linear rise from 0 to 1 at the start.
        final: multiplier at the end of the cosine.

    Raises:
        ValueError: unknown kind, or a value outside its range.
    """
    if kind not in ("cosine", "constant"):
        raise ValueError(f"schedule.kind is cosine or constant, got {kind!r}")
    if warmup_steps < 0 or not 0 <= final <= 1:
        raise ValueError(f"schedule expects warmup_steps >= 0 and final in [0, 1], got {warmup_steps} and {final}")
    span = max(1, max_steps - warmup_steps)

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if kind == "constant":
            return 1.0
        progress = min(1.0, (step - warmup_steps) / span)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return multiplier
