"""Training against a critic: two optimizers, one step count."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from zoo.data.sampler import mix
from zoo.tokenizer import Tokenizer
from zoo.training.module import Batch, Settings, TokenizerTraining, reconstruct
from zoo.training.optim import build_optimizer, decayed_names
from zoo.training.optimised import settings_of

__all__ = ["AdversarialTraining"]


class AdversarialTraining(TokenizerTraining):
    """Trains a tokenizer and the critic of its objective, the critic from `objective.adversarial_start` on.

    Each step computes both gradients on the same reconstruction, then steps both. Only the tokenizer's step counts as
    `global_step`.

    Args:
        tokenizer: what is trained.
        objective: as in `TokenizerTraining`, with `critic`, `adversarial_start` and `criticise(x, output)`; its
            forward also takes the decoder's last weight. It may have `critic_optimizer`, settings of the critic's AdamW
            and its `gradient_clip` where they differ, and `critic_rate`, the share of steps in which the critic learns.
        settings: optimisation.
    """

    def __init__(self, tokenizer: Tokenizer, objective: nn.Module, settings: Settings) -> None:
        super().__init__(tokenizer, objective, settings)
        self.automatic_optimization = False
        self.start: int = objective.adversarial_start  # type: ignore[assignment]
        self.critic_rate = float(getattr(objective, "critic_rate", 1.0))
        self._own: dict[str, Any] = dict(getattr(objective, "critic_optimizer", {}))
        self.critic_clip: float = self._own.pop("gradient_clip", settings.gradient_clip)
        weights = [p for p in tokenizer.decoder.parameters() if p.requires_grad and p.ndim >= 2]
        self._anchor = (weights[-1],) if weights else (None,)

    @property
    def critic(self) -> Any:
        """The objective's critic, which is saved with the training but not exported."""
        return self.objective.critic

    def configure_optimizers(self) -> Any:
        """AdamW for the tokenizer and for the critic, each with its schedule."""
        options = dict(self.settings.optimizer)
        critic_lr = options.pop("critic_lr", None) or options["lr"]
        generator = build_optimizer(self.learned(), self._decayed, **options)
        critic = build_optimizer(
            self.critic.named_parameters(), decayed_names(self.critic), **{**options, "lr": critic_lr, **self._own}
        )
        self._fresh = [settings_of(generator), settings_of(critic)]
        return [generator, critic], [self.scheduler(generator), self.scheduler(critic, self.start)]

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """Both losses of a batch (B, C, ...) in [-1, 1]; steps after every `accumulate` batches."""
        optimizers: Any = self.optimizers()
        generator, critic = optimizers
        step = self.global_step
        x, reconstruction = reconstruct(self.tokenizer, batch, self.objective)
        self.critic.requires_grad_(False)
        terms = self.objective(x, reconstruction, step, self._anchor[0])
        self.manual_backward(terms["loss"] / self.accumulate)
        self.critic.requires_grad_(True)
        learns = self.critic_learns(step)
        if learns:
            judged = self.objective.criticise(x, reconstruction.output)  # type: ignore[operator]
            self.manual_backward(judged["loss"] / self.accumulate)
            terms = {**terms, **{name: value for name, value in judged.items() if name != "loss"}}
            terms["critic_loss"] = judged["loss"]
        self.report("train", terms, reconstruction, len(x))
        if (batch_idx + 1) % self.accumulate:
            return
        schedules: Any = self.lr_schedulers()
        if learns:
            self._step_critic(critic.optimizer)
            schedules[1].step()
        # Stepped last, because Lightning updates the fp16 loss scale with it.
        generator.step()
        generator.zero_grad()
        schedules[0].step()
        self.update_average()

    def critic_learns(self, step: int) -> bool:
        """Whether the critic learns in a step: the same on every rank, and when the step is repeated."""
        return step >= self.start and Random(mix(self.settings.seed, step)).random() < self.critic_rate

    def _step_critic(self, optimizer: Optimizer) -> None:
        """Step the bare optimizer: a step of Lightning's wrapper would count as a `global_step`."""
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimizer)
        if self.critic_clip > 0:
            self.log("train/critic_grad_norm", self.clip(optimizer, self.critic_clip))
        if scaler is not None:
            scaler.step(optimizer)
        else:
            optimizer.step()
        optimizer.zero_grad()
