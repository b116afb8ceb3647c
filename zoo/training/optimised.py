"""What every training has in common: optimizer, schedule, gradient clipping, moving average, seeds, resumption."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from zoo.data.sampler import mix
from zoo.training.optim import build_optimizer, decays, schedule

__all__ = ["Settings", "Training", "settings_of"]


@dataclass(frozen=True)
class Settings:
    """What a recipe says about optimisation.

    Attributes:
        optimizer: `lr`, `betas`, `eps`, `weight_decay` of AdamW; `critic_lr`, or None for the same `lr`.
        schedule: `kind`, `warmup_steps`, `final`.
        max_steps: optimizer steps of the whole training.
        accumulate: batches per optimizer step.
        gradient_clip: largest global gradient norm; 0 leaves gradients alone.
        ema: decay of the moving average of the weights; 0 keeps none.
        freeze: names (dotted prefixes) in the tokenizer that do not learn.
        train_only: if not empty, the only names that learn.
        compile: run the tokenizer through `torch.compile`.
        seed: of every random draw of a step.
        config: the resolved recipe, stored in checkpoints.
    """

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    max_steps: int
    accumulate: int = 1
    gradient_clip: float = 0.0
    ema: float = 0.0
    freeze: Sequence[str] = ()
    train_only: Sequence[str] = ()
    compile: bool = False
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)


class Training(LightningModule):
    """Steps a net by the settings of a recipe; subclasses say which net it is, and define the steps.

    All random draws of a batch come from a generator seeded by (seed, batch, rank), so that a resumed run repeats an
    uninterrupted one bit for bit without stored generator states.

    Args:
        settings: optimisation.
    """

    entrances: ClassVar[tuple[str, ...]] = ()  # methods of the net that a step calls beside `forward`

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.accumulate = settings.accumulate
        self._frozen_modules: list[nn.Module] = []
        self.average: Any = None
        self._decayed: frozenset[str] = frozenset()
        self._sharded = False
        self._fresh: list[list[dict[str, Any]]] = []

    @property
    def net(self) -> nn.Module:
        """What is trained, averaged and exported."""
        raise NotImplementedError(f"{type(self).__name__} must define net")

    def begin(self) -> None:
        """To be called when the net is there: copy its average, note what decays."""
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval() if self.settings.ema else None
        self._decayed = frozenset(name for name, parameter in self.learned() if decays(name, parameter))
        self.train()

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer steps: the net, and what learns beside it."""
        yield from self.net.named_parameters()
        yield from self.helpers()

    def helpers(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that learn beside the net: none here."""
        yield from ()

    def whole(self, net: nn.Module) -> Iterator[nn.Parameter]:
        """Parameters of the net that stay whole on every rank under FSDP: none here."""
        yield from ()

    def samples(self, folder: Path, count: int, every: int) -> Callback:
        """The callback that shows what the net makes of `count` items after each validation.

        Args:
            folder: where files go.
            count: items; 0 for none.
            every: steps between two reports in training.
        """
        raise NotImplementedError(f"{type(self).__name__} must define samples")

    def train(self, mode: bool = True) -> Self:
        """Frozen parts and the moving average stay in eval mode."""
        super().train(mode)
        for module in self._frozen_modules:
            module.eval()
        if self.average is not None:
            self.average.eval()
        return self

    def configure_model(self) -> None:
        """Under FSDP, shard the weights and their average over the ranks."""
        if self.device_mesh is None or self._sharded:
            return
        self._sharded = True
        for net in filter(None, (self.net, self.average)):
            shard: Any = {"mesh": self.device_mesh["data_parallel"], "reshard_after_forward": True}
            fully_shard(net, ignored_params=set(self.whole(net)), **shard)
            for name in self.entrances:
                register_fsdp_forward_method(net, name)

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, stepped once per optimizer step."""
        options = {key: value for key, value in self.settings.optimizer.items() if key != "critic_lr"}
        options["foreach"] = False if self._sharded else None
        optimizer = build_optimizer(self.learned(), self._decayed, **options)
        self._fresh = [settings_of(optimizer)]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def scheduler(self, optimizer: Optimizer, start: int = 0) -> LambdaLR:
        """The recipe's schedule on an optimizer that is first stepped at step `start`."""
        return LambdaLR(optimizer, schedule(**self.settings.schedule, max_steps=self.settings.max_steps - start))

    def on_train_start(self) -> None:
        """After a resume, rates and decays are those of the recipe as it is now, not those in the checkpoint."""
        configs = self.trainer.lr_scheduler_configs
        for optimizer, config, fresh in zip(self.trainer.optimizers, configs, self._fresh, strict=True):
            scheduler: Any = config.scheduler
            scheduler.base_lrs = [values["lr"] for values in fresh]
            for group, values, shape in zip(optimizer.param_groups, fresh, scheduler.lr_lambdas, strict=True):
                rate = values["lr"] * shape(scheduler.last_epoch)
                group.update(values | {"initial_lr": values["lr"], "lr": rate})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed this batch's random draws."""
        position = self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(mix(self.settings.seed, position, self.global_rank))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip gradients (unscaled by now) and record their norm."""
        if self._sharded:
            for parameter in (*self.whole(self.net), *(parameter for _, parameter in self.helpers())):
                if parameter.grad is not None:
                    parameter.grad = self.trainer.strategy.reduce(parameter.grad, reduce_op="mean")
        if self.settings.gradient_clip > 0:
            self.log("train/grad_norm", self.clip(optimizer))

    def clip(self, optimizer: Optimizer, limit: float | None = None) -> Tensor:
        """Limit the global gradient norm of an optimizer's parameters, to the recipe's limit if none is given.

        Returns:
            The norm before.
        """
        limit = self.settings.gradient_clip if limit is None else limit
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not self._sharded:
            return nn.utils.clip_grad_norm_(parameters, limit)
        norms = [nn.utils.get_total_norm([parameter.grad]) for parameter in parameters]
        total = torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]).norm()
        for parameter in parameters:
            parameter.grad.mul_(min(1.0, limit / (float(total) + 1e-6)))
        return total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the moving average: before any callback can save the state."""
        super().optimizer_step(*args, **kwargs)
        self.update_average()

    @torch.no_grad()
    def update_average(self) -> None:
        """average += (1 - decay) * (weights - average); buffers are copied."""
        if self.average is None:
            return
        # A young average forgets its random start: decay rises as (1 + n) / (10 + n) up to the setting.
        decay = min(self.settings.ema, (1 + self.global_step) / (10 + self.global_step))
        for mean, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for held, current in zip(self.average.buffers(), self.net.buffers(), strict=True):
            held.copy_(current)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the recipe with the weights."""
        checkpoint["recipe"] = self.settings.config


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the recipe says about each parameter group."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
