"""Reconstruction of waveforms: named distances, the quantizer's loss, and critics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.objectives.audio.adversary import Adversary
from zoo.objectives.audio.balancer import Balancer
from zoo.objectives.audio.distillation import SpeechDistillation
from zoo.objectives.audio.spectrum import Waveform
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["AudioObjective"]

RESERVED = ("quantizer", "distillation", "loss")
CRITIC_OPTIONS = ("lr", "betas", "eps", "weight_decay", "gradient_clip")


class AudioObjective(nn.Module):
    """Weighted sum of named terms, or a balance of the gradients that they have at the output.

    A critic NAME adds the terms NAME_adversarial and NAME_features, with the weights in its `Adversary`.

    Args:
        losses: distances `(output, target) -> ()` of waveforms, by name.
        weights: of the distances, by the same names; 1 where none is given.
        quantizer: weight of `Quantized.loss`, which holds commitment and codebook terms.
        critic: critics by name; None for none.
        adversarial_start: step from which the critics learn and count.
        critic_rate: share of the steps from then on in which the critics learn; which ones follows from the seed.
        critic_optimizer: what the critics' AdamW has of its own, among `lr`, `betas`, `eps`, `weight_decay` and
            `gradient_clip`; the rest is as the recipe's `optimizer` and `trainer` say.
        balance: options of `Balancer`, which then weighs distances and critics by their gradients' norms; None for a
            plain sum. The quantizer's loss and the distillation are added beside it.
        distillation: of a speech model's features; it has its own weight. None for none.

    Raises:
        ValueError: a weight without a loss, no loss at all, names that meet, or an unknown option.
    """

    def __init__(
        self,
        losses: Mapping[str, nn.Module],
        *,
        weights: Mapping[str, float] | None = None,
        quantizer: float = 1.0,
        critic: Mapping[str, Adversary] | None = None,
        adversarial_start: int = 0,
        critic_rate: float = 1.0,
        critic_optimizer: Mapping[str, Any] | None = None,
        balance: Mapping[str, Any] | None = None,
        distillation: SpeechDistillation | None = None,
    ) -> None:
        super().__init__()
        self.critic_optimizer = dict(critic_optimizer or {})
        if "betas" in self.critic_optimizer:
            self.critic_optimizer["betas"] = tuple(self.critic_optimizer["betas"])
        if extra := sorted(self.critic_optimizer.keys() - set(CRITIC_OPTIONS)):
            raise ValueError(f"critic_optimizer has no {', '.join(extra)}; it takes {', '.join(CRITIC_OPTIONS)}")
        if extra := sorted(set(weights or {}) - losses.keys()):
            raise ValueError(f"weights of {', '.join(extra)} without a loss; the losses are {', '.join(losses)}")
        if not losses or not 0 < critic_rate <= 1:
            raise ValueError(f"AudioObjective needs a loss, and critic_rate in (0, 1]; got {critic_rate}")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: (weights or {}).get(name, 1.0) for name in losses}
        for name, adversary in (critic or {}).items():
            self.weights |= {f"{name}_adversarial": adversary.weight, f"{name}_features": adversary.features}
        if len(self.weights) != len(losses) + 2 * len(critic or {}) or losses.keys() & RESERVED:
            raise ValueError(f"terms must differ in name, and from {', '.join(RESERVED)}: {', '.join(losses)}")
        self.quantizer, self.distillation = quantizer, distillation
        self.critic = nn.ModuleDict(critic) if critic else None
        self.adversarial_start, self.critic_rate = adversarial_start, critic_rate
        self.balancer = None if balance is None else Balancer(self.weights, **balance)
        # what `forward` heard, so that `criticise` need not compute its spectra again
        self._heard: tuple[Tensor, Tensor, Waveform, Waveform] | None = None

    def prepare(self, tokenizer: Tokenizer, *, fresh: bool = True) -> None:
        """Before training: load what is distilled.

        Args:
            tokenizer: what will be trained.
            fresh: whether its weights are those of the recipe's start; without influence.
        """
        if self.distillation is not None:
            self.distillation.prepare(tokenizer)

    def forward(
        self, x: Tensor, reconstruction: Reconstruction, step: int = 0, anchor: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unweighted terms of the tokenizer's loss, each (), and the total under "loss".

        The value of "loss" is the weighted sum also where a balancer makes its gradient.

        Args:
            x: (B, C, T) in [-1, 1].
            reconstruction: of x.
            step: optimizer steps so far.
            anchor: without influence.

        Raises:
            ValueError: the output has another shape than x.
        """
        output = reconstruction.output
        if output.shape != x.shape:
            raise ValueError(f"expected an output like the input {tuple(x.shape)}, got {tuple(output.shape)}")
        real, fake = Waveform(x), Waveform(output)
        terms = {name: distance(fake, real) for name, distance in self.losses.items()}
        if self.critic is not None and step >= self.adversarial_start:
            for name, adversary in self.critic.items():
                pull = adversary.pull(real, fake)  # type: ignore[operator]
                terms |= {f"{name}_{part}": value for part, value in pull.items()}
            if torch.is_grad_enabled():
                self._heard = (x, output, real, fake)
        loss = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        if self.balancer is not None and torch.is_grad_enabled() and fake.samples.requires_grad:
            gradient = self.balancer(terms, fake.samples)
            terms = {name: value.detach() for name, value in terms.items()}
            # A value of 0 whose gradient at the output is the balanced one.
            carrier = ((fake.samples - fake.samples.detach()) * gradient).sum()
            loss = loss.detach() + carrier
        terms["quantizer"] = reconstruction.quantized.loss
        loss = loss + self.quantizer * terms["quantizer"]
        if self.distillation is not None:
            terms["distillation"] = self.distillation(x, reconstruction)
            loss = loss + self.distillation.weight * terms["distillation"]
        return terms | {"loss": loss}

    def criticise(self, x: Tensor, output: Tensor) -> dict[str, Tensor]:
        """Terms of the critics' losses, each (), with the total under "loss"; no gradient reaches the tokenizer.

        Args:
            x: real waveforms (B, C, T) in [-1, 1].
            output: their reconstructions.

        Raises:
            ValueError: the objective has no critic.
        """
        if self.critic is None:
            raise ValueError("this AudioObjective has no critic")
        real, fake = Waveform(x), Waveform(output)
        if self._heard is not None and self._heard[0] is x and self._heard[1] is output:
            real, fake = self._heard[2:]
        self._heard = None
        real, fake = real.detach(), fake.detach()
        terms: dict[str, Tensor] = {}
        losses = []
        for name, adversary in self.critic.items():
            push = adversary.push(real, fake)  # type: ignore[operator]
            losses.append(push["loss"])
            terms |= {f"{name}_critic": push["loss"], f"{name}_real": push["real"], f"{name}_fake": push["fake"]}
        return terms | {"loss": torch.stack(losses).sum()}
