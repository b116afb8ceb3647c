"""EnCodec's loss balancer: weights are shares of the gradient, whatever the scale of a loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn

__all__ = ["Balancer"]


class Balancer(nn.Module):
    """Adds up the gradients that losses have at the output, each divided by a moving average of its norm.

        g = sum_i  R * w_i / (sum_j w_j) * g_i / E[|g_i|]                      (arXiv 2210.13438, Eq. 6)

    The sum of weights is over the losses that are given, so that shares stay shares before a critic joins. Averages
    are corrected for their start and are those of all processes.

    Args:
        weights: share of each loss by name.
        decay: of the averages, per call.
        total_norm: R, the norm of the whole.
        per_item: average the norms of the items' gradients; else take the norm of the batch's.
        rescale: whether gradients are divided and shared out; if not, they are weighted only.
        eps: added to averages.

    Raises:
        ValueError: no weight, a negative one, or a decay outside [0, 1).
    """

    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        decay: float = 0.999,
        total_norm: float = 1.0,
        per_item: bool = True,
        rescale: bool = True,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if not weights or min(weights.values()) < 0 or not 0 <= decay < 1:
            raise ValueError(
                f"Balancer expects weights of at least 0 and a decay in [0, 1), got {dict(weights)} and {decay}"
            )
        self.weights = dict(weights)
        self.places = {name: place for place, name in enumerate(self.weights)}
        self.decay, self.total_norm, self.per_item, self.rescale, self.eps = decay, total_norm, per_item, rescale, eps
        self.register_buffer("sums", torch.zeros(len(weights)))
        self.register_buffer("counts", torch.zeros(len(weights)))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """The balanced gradient at `output`, of its shape; the losses' graphs are kept.

        Args:
            losses: () tensors by names among the weights; those of weight 0 are left out.
            output: (B, ...) tensor that every loss is a function of.

        Raises:
            KeyError: a loss without weight.
            ValueError: nothing to balance.
        """
        if unknown := sorted(losses.keys() - self.weights.keys()):
            raise KeyError(f"Balancer has no weight for {', '.join(unknown)}; it has: {', '.join(self.weights)}")
        names = [name for name in losses if self.weights[name] > 0]
        if not names:
            raise ValueError("Balancer needs at least one loss with a weight above 0")
        gradients = [torch.autograd.grad(losses[name], output, retain_graph=True)[0].float() for name in names]
        scales = torch.tensor([self.weights[name] for name in names], device=output.device)
        if self.rescale:
            shares = self.total_norm * scales / scales.sum()
            scales = shares / (self._averages(names, gradients) + self.eps)
        return torch.stack([scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]).sum(0)

    def _averages(self, names: list[str], gradients: list[Tensor]) -> Tensor:
        """Moving averages of the norms, (len(names),)."""
        if self.per_item:
            norms = torch.stack([gradient.flatten(1).norm(dim=1).mean() for gradient in gradients])
        else:
            norms = torch.stack([gradient.norm() for gradient in gradients])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(norms)
            norms = norms / distributed.get_world_size()
        places = torch.tensor([self.places[name] for name in names], device=norms.device)
        self.sums[places] = self.decay * self.sums[places] + norms
        self.counts[places] = self.decay * self.counts[places] + 1
        return self.sums[places] / self.counts[places]
