"""One optimizer step after another on a tokenizer and an objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantizers import Quantized
from zoo.data.captions import Captioned
from zoo.data.shapes_batch import Shapes
from zoo.families.shape import ShapeTokenizer
from zoo.families.text import TextConditioned
from zoo.metrics import CodeStatistics
from zoo.objectives.shape import ShapeObjective
from zoo.tokenizer import Reconstruction, Tokenizer
from zoo.training.fidelity import fidelity
from zoo.training.optimised import Settings, Training
from zoo.training.samples import Samples, samples

__all__ = ["Batch", "Settings", "TokenizerTraining"]

Batch = Tensor | Captioned | Shapes

# Lets FSDP see the tensors inside a tokenizer's result, on which its backward hooks sit.
for _result in (Quantized, Reconstruction):
    torch.export.register_dataclass(_result)


class TokenizerTraining(Training):
    """Trains a tokenizer on an objective without critic.

    Args:
        tokenizer: what is trained.
        objective: `forward(x, reconstruction, step)` -> named terms with the total under "loss". One for shapes also
            says by `targets(batch)` and `queries(targets)` what it compares and where.
        settings: optimisation.
    """

    def __init__(self, tokenizer: Tokenizer, objective: nn.Module, settings: Settings) -> None:
        super().__init__(settings)
        self.tokenizer = tokenizer
        self.objective = objective
        self._frozen_modules = freeze(tokenizer, settings.freeze, settings.train_only)
        sizes = tokenizer.spec.codebook_sizes
        self._codes = {part: CodeStatistics(sizes) for part in ("train", "val") if sizes}
        self.statistics = nn.ModuleList(self._codes.values())  # moves to the device with the rest
        self.fidelity = fidelity(tokenizer.spec)
        self.begin()
        if settings.compile:
            tokenizer.compile()

    @property
    def net(self) -> Tokenizer:
        """The tokenizer."""
        return self.tokenizer

    @property
    def best(self) -> Tokenizer:
        """The weights to validate with and to export: the moving average where there is one."""
        return self.tokenizer if self.average is None else self.average

    def helpers(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of the objective that learn with the tokenizer, such as the projectors of an alignment."""
        for name, parameter in self.objective.named_parameters():
            if not below(name, "critic"):
                yield f"objective.{name}", parameter

    def whole(self, net: nn.Module) -> Iterator[nn.Parameter]:
        """Quantizers stay whole on every rank: they write to their codebooks during a step."""
        assert isinstance(net, Tokenizer)
        yield from net.quantizer.parameters()

    def samples(self, folder: Path, count: int, every: int) -> Samples:
        """The callback that shows reconstructions."""
        return samples(self.tokenizer.spec, folder, count, every)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch: (B, C, ...) in [-1, 1], with captions, or of shapes."""
        x, reconstruction = reconstruct(self.tokenizer, batch, self.objective)
        terms = self.objective(x, reconstruction, self.global_step)
        self.report("train", terms, reconstruction, len(x))
        return terms["loss"]

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
