"""Adversarial losses: hinge, and LeCAM regularisation."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

__all__ = ["LeCAM", "hinge_discriminator_loss", "hinge_generator_loss"]


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """0.5 * (E[relu(1 - real)] + E[relu(1 + fake)]) of logits of any shape, as a () tensor."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-E[fake] of logits of any shape, as a () tensor."""
    return -fake.mean()


class LeCAM(nn.Module):
    """Regularisation of a critic on little data: holds its mean logits near moving averages (arXiv 2104.03310, Eq. 3).

    The averages are of the whole batch: equal on every process of a distributed run.

    Args:
        decay: of the moving averages, per call in training.
    """

    ema_real: Tensor
    ema_fake: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.register_buffer("ema_real", torch.zeros(()))
        self.register_buffer("ema_fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Logits of any shape -> () relu(E[real] - ema_fake)^2 + relu(ema_real - E[fake])^2; then averages move."""
        real_mean, fake_mean = real.float().mean(), fake.float().mean()
        loss = F.relu(real_mean - self.ema_fake).square() + F.relu(self.ema_real - fake_mean).square()
        if self.training:
            means = torch.stack([real_mean, fake_mean]).detach()
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(means)
                means = means / distributed.get_world_size()
            # new tensors, because the graph of this very loss still holds the old ones
            self.ema_real = torch.lerp(means[0], self.ema_real, self.decay)
            self.ema_fake = torch.lerp(means[1], self.ema_fake, self.decay)
        return loss
