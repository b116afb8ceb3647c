"""One optimizer step after another on a tokenizer and an objective."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from quantizers import Quantized
from zoo.data.captions import Captioned
from zoo.data.sampler import mix
from zoo.data.shapes_batch import Shapes
from zoo.families.shape import ShapeTokenizer
from zoo.families.text import TextConditioned
from zoo.metrics import CodeStatistics
from zoo.objectives.shape import ShapeObjective
from zoo.tokenizer import Reconstruction, Tokenizer
from zoo.training.fidelity import fidelity
from zoo.training.optim import build_optimizer, decays, schedule

__all__ = ["Batch", "Settings", "TokenizerTraining"]

Batch = Tensor | Captioned | Shapes

# Lets FSDP see the tensors inside a tokenizer's result, on which its backward hooks sit.
for _result in (Quantized, Reconstruction):
    torch.export.register_dataclass(_result)


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


class TokenizerTraining(LightningModule):
    """Trains a tokenizer on an objective without critic.

    All random draws of a batch come from a generator seeded by (seed, batch, rank), so that a resumed run repeats an
    uninterrupted one bit for bit without stored generator states.

    Args:
        tokenizer: what is trained.
        objective: `forward(x, reconstruction, step)` -> named terms with the total under "loss". One for shapes also
            says by `targets(batch)` and `queries(targets)` what it compares and where.
        settings: optimisation.
    """

    def __init__(self, tokenizer: Tokenizer, objective: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.objective = objective
        self.settings = settings
        self.accumulate = settings.accumulate
        self._frozen_modules = freeze(tokenizer, settings.freeze, settings.train_only)
        self.average = copy.deepcopy(tokenizer).requires_grad_(False).eval() if settings.ema else None
        self._decayed = frozenset(name for name, parameter in self.learned() if decays(name, parameter))
        self._sharded = False
        self._fresh: list[list[dict[str, Any]]] = []
        sizes = tokenizer.spec.codebook_sizes
        self._codes = {part: CodeStatistics(sizes) for part in ("train", "val") if sizes}
        self.statistics = nn.ModuleList(self._codes.values())  # moves to the device with the rest
        self.fidelity = fidelity(tokenizer.spec)
        if settings.compile:
            tokenizer.compile()
        self.train()

    @property
    def best(self) -> Tokenizer:
        """The weights to validate with and to export: the moving average where there is one."""
        return self.tokenizer if self.average is None else self.average

    def train(self, mode: bool = True) -> TokenizerTraining:
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
        for net in filter(None, (self.tokenizer, self.average)):
            # Quantizers stay whole on every rank: they write to their codebooks during a step.
            whole = set(net.quantizer.parameters())
            fully_shard(net, mesh=self.device_mesh["data_parallel"], reshard_after_forward=True, ignored_params=whole)

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, stepped once per optimizer step."""
        options = {key: value for key, value in self.settings.optimizer.items() if key != "critic_lr"}
        options["foreach"] = False if self._sharded else None
        optimizer = build_optimizer(self.learned(), self._decayed, **options)
        self._fresh = [settings_of(optimizer)]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the tokenizer's optimizer steps: the tokenizer, and what the objective learns apart from its critic."""
        yield from self.tokenizer.named_parameters()
        yield from self.helpers()

    def helpers(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of the objective that learn with the tokenizer, such as the projectors of an alignment."""
        for name, parameter in self.objective.named_parameters():
            if not below(name, "critic"):
                yield f"objective.{name}", parameter

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

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this batch's random draws."""
        position = self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(mix(self.settings.seed, position, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch: (B, C, ...) in [-1, 1], with captions, or of shapes."""
        x, reconstruction = reconstruct(self.tokenizer, batch, self.objective)
        terms = self.objective(x, reconstruction, self.global_step)
        self.report("train", terms, reconstruction, len(x))
        return terms["loss"]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip gradients (unscaled by now) and record their norm."""
        if self._sharded:
            whole = (*self.tokenizer.quantizer.parameters(), *(parameter for _, parameter in self.helpers()))
            for parameter in whole:
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
        for mean, value in zip(self.average.parameters(), self.tokenizer.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for held, current in zip(self.average.buffers(), self.tokenizer.buffers(), strict=True):
            held.copy_(current)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Objective and fidelity of the averaged weights; reconstructions under "output", their originals under "x"."""
        x, reconstruction = reconstruct(self.best, batch, self.objective)
        self.report("val", self.objective(x, reconstruction, self.global_step), reconstruction, len(x))
        measured = {f"val/{name}": value for name, value in self.fidelity(reconstruction.output, x).items()}
        self.log_dict(measured, batch_size=len(x), sync_dist=True)
        return {"x": x, "output": reconstruction.output}

    def report(self, part: str, terms: dict[str, Tensor], reconstruction: Reconstruction, size: int) -> None:
        """Log named terms and count the codes in use."""
        values = {f"{part}/{name}": value.detach() for name, value in terms.items()}
        values |= {f"{part}/{name}": value.detach() for name, value in reconstruction.quantized.parts.items()}
        self.log_dict(values, batch_size=size, sync_dist=part == "val")
        if part in self._codes:
            self._codes[part].update(reconstruction.quantized.indices)

    def usage(self, part: str) -> dict[str, float]:
        """Share of used codes and perplexity since the last call, per codebook averaged, over all ranks."""
        if part not in self._codes:
            return {}
        values = self._codes[part].compute()
        self._codes[part].reset()
        return {f"{part}/{name}": float(values[name]) for name in ("usage", "perplexity") if values["positions"]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the recipe with the weights."""
        checkpoint["recipe"] = self.settings.config


def reconstruct(tokenizer: Tokenizer, batch: Batch, objective: nn.Module) -> tuple[Tensor | Shapes, Reconstruction]:
    """What a batch is compared with, signals x (B, C, ...) or shapes, and what becomes of it.

    Pictures go with their captions where the batch has some; shapes are evaluated where the objective wants to know.

    Raises:
        ValueError: the tokenizer or the objective is not one for such batches.
    """
    if isinstance(batch, Captioned):
        if not isinstance(tokenizer, TextConditioned):
            raise ValueError(f"{type(tokenizer).__name__} reads no captions; set data.captions=false")
        return batch.images, tokenizer(batch.images, text=batch.captions)
    if isinstance(batch, Shapes):
        if not isinstance(tokenizer, ShapeTokenizer) or not isinstance(objective, ShapeObjective):
            raise ValueError(
                f"the data are shapes, which a {type(tokenizer).__name__} cannot learn from with a "
                f"{type(objective).__name__}; both must be for shapes: see recipes/vecset_tiny.yaml"
            )
        targets = objective.targets(batch)
        return targets, tokenizer(batch.points, queries=objective.queries(targets))
    return batch, tokenizer(batch)


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the recipe says about each parameter group."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def freeze(tokenizer: nn.Module, frozen: Sequence[str], train_only: Sequence[str]) -> list[nn.Module]:
    """Switch off gradients by dotted name prefixes.

    Returns:
        The modules that are frozen as a whole, with or without parameters.

    Raises:
        ValueError: a prefix names nothing in the tokenizer.
    """

    def still(name: str) -> bool:
        """Whether a module or parameter is frozen; the ancestors of a part that learns are not."""
        learns = not train_only or any(below(name, part) or below(part, name) for part in train_only)
        return not learns or any(below(name, part) for part in frozen)

    modules = dict(tokenizer.named_modules())
    parameters = dict(tokenizer.named_parameters())
    for prefix in (*frozen, *train_only):
        if prefix not in modules and prefix not in parameters:
            parts = ", ".join(name for name, _ in tokenizer.named_children())
            raise ValueError(f"freeze/train_only name {prefix!r} is no part of the tokenizer; its parts are {parts}")
    for name, parameter in parameters.items():
        if still(name):
            parameter.requires_grad_(False)
    return [module for name, module in modules.items() if name and still(name)]


def below(name: str, prefix: str) -> bool:
    """Whether a dotted name is `prefix` or inside it."""
    return name == prefix or name.startswith(prefix + ".")
