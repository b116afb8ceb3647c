"""Training a generator on exported tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric
from torchvision.utils import make_grid, save_image

from zoo.data.tokens import Codes, TokenData
from zoo.generators.base import Generator, Losses, Vocabulary
from zoo.generators.pipeline import Pipeline, build
from zoo.training.module import freeze
from zoo.training.optimised import Settings, Training
from zoo.training.samples import Samples, log_picture

__all__ = ["Generated", "GeneratorTraining", "Perplexity", "complete", "make_generator"]

QUARTERS = 4

torch.export.register_dataclass(Losses)  # lets FSDP see the tensors inside, on which its backward hooks sit


class Perplexity(Metric):
    """Perplexity exp(mean nats) under teacher forcing: of all codes, each codebook, and quarters of the positions.

    Args:
        vocabulary: the codes.

    Attributes:
        headline: name of the number that a progress bar shows.
    """

    headline = "perplexity"
    full_state_update = False
    nats: Tensor
    count: Tensor

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        shape = (vocabulary.num_tokens, vocabulary.depth)
        self.add_state("nats", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nll: Tensor) -> None:
        """Take in negative log-likelihoods (B, N, Q) in nats, NaN where there is none."""
        self.nats += nll.double().nan_to_num(0.0).sum(0)
        self.count += (~nll.isnan()).double().sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Named perplexities; "perplexity" is that of all codes."""

        def mean(part: slice = slice(None), book: slice = slice(None)) -> Tensor:
            return (self.nats[part, book].sum() / self.count[part, book].sum().clamp_min(1)).exp()

        positions, books = self.nats.shape
        found = {"perplexity": mean()}
        if books > 1:
            found |= {f"perplexity_codebook_{q}": mean(book=slice(q, q + 1)) for q in range(books)}
        if positions >= QUARTERS:
            bounds = [positions * quarter // QUARTERS for quarter in range(QUARTERS + 1)]
            found |= {
                f"perplexity_quarter_{quarter + 1}": mean(slice(bounds[quarter], bounds[quarter + 1]))
                for quarter in range(QUARTERS)
            }
        return found


class GeneratorTraining(Training):
    """Trains a generator on `Codes`, its condition the class labels where there are some.

    Args:
        generator: what is trained.
        settings: optimisation.
    """

    entrances = ("loss",)

    def __init__(self, generator: Generator, settings: Settings) -> None:
        super().__init__(settings)
        self.generator = generator
        self._frozen_modules = freeze(generator, settings.freeze, settings.train_only)
        self.fidelity = Perplexity(generator.vocabulary)
        self.loss = torch.compile(generator.loss) if settings.compile else generator.loss
        self.begin()

    @property
    def net(self) -> Generator:
        """The generator."""
        return self.generator

    @property
    def best(self) -> Generator:
        """The weights to validate with and to export: the moving average where there is one."""
        return self.generator if self.average is None else self.average

    def training_step(self, batch: Codes, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        self.tell_step()
        losses = self.loss(batch.indices, batch.labels)
        values = {f"train/{name}": value.detach() for name, value in losses.parts.items()}
        self.log_dict({"train/loss": losses.total.detach(), **values}, batch_size=len(batch))
        return losses.total

    def tell_step(self) -> None:
        """Let a generator whose training changes on the way (RAR's orders) know how far it is."""
        if (told := getattr(self.generator, "at_step", None)) is not None:
            told(self.global_step, self.settings.max_steps)

    def validation_step(self, batch: Codes, batch_idx: int) -> None:
        """Loss and perplexity of the averaged weights."""
        losses = self.best.loss(batch.indices, batch.labels)
        values = {f"val/{name}": value.detach() for name, value in losses.parts.items()}
        self.log_dict({"val/loss": losses.total.detach(), **values}, batch_size=len(batch), sync_dist=True)
        if losses.nll is not None:
            self.fidelity.update(losses.nll)

    def on_validation_epoch_end(self) -> None:
        """Perplexities of the whole validation set, over all ranks."""
        if bool(self.fidelity.count.any()):
            self.log_dict({f"val/{name}": value.float() for name, value in self.fidelity.compute().items()})
        self.fidelity.reset()

    def samples(self, folder: Path, count: int, every: int) -> Samples:
        """The callback that shows what is generated."""
        return Generated(folder, count, every)

    def usage(self, part: str) -> dict[str, float]:
        """Nothing: generators have no codebooks of their own."""
        return {}


class Generated(Samples):
    """After each validation: pictures that the generator draws, one class after the other.

    Nothing is shown where the tokenizer cannot be had, or makes something else than pictures.
    """

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any, **more: Any) -> None:
        """Originals are not kept."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Generate, decode and write a PNG."""
        if not self.count or not trainer.is_global_zero or (pipeline := self._pipeline(pl_module)) is None:
            return
        generator, device = pl_module.best, pl_module.device
        labels = None if generator.classes is None else [n % generator.classes for n in range(self.count)]
        torch_generator = torch.Generator(device).manual_seed(0)
        tokens = pipeline.tokens(labels, self.count, generator=torch_generator)
        grid = make_grid([picture.clamp(-1, 1) / 2 + 0.5 for picture in pipeline.decode(tokens)], nrow=4)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, self.path(trainer, ".png"))
        log_picture(trainer, grid)

    def _pipeline(self, module: GeneratorTraining) -> Pipeline | None:
        import zoo

        if "tokenizer" not in self.__dict__:
            try:
                tokenizer = zoo.load(str(module.best.tokenizer), device=module.device)
            except (KeyError, OSError, ValueError, RuntimeError) as error:
                print(f"no samples are drawn: the tokenizer {module.best.tokenizer!r} cannot be loaded ({error})")
                self.tokenizer = None
            else:
                self.tokenizer = tokenizer if tokenizer.spec.modality == "image" and tokenizer.spec.decodes else None
        return None if self.tokenizer is None else Pipeline(module.best, self.tokenizer)


def complete(config: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """The resolved recipe of a generator, with what the tokens say: vocabulary, classes, and who made them.

    In the generator's node `digits: auto` becomes the levels of the FSQ in the tokenizer's quantizer, or null, and
    `head.quantizer: tokenizer` that quantizer.

    Raises:
        ValueError: the data are no tokens, or the tokenizer is needed and cannot be had.
    """
    if not isinstance(data, TokenData):
        raise ValueError(f"a generator learns from tokens, got {type(data).__name__}; set data=tokens data.tokens=DIR")
    node = dict(config["generator"])
    vocabulary = data.vocabulary
    node["vocabulary"] = {"_target_": "zoo.generators.Vocabulary"} | {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in ((name, getattr(vocabulary, name)) for name in vocabulary.__dataclass_fields__)
    }
    if node.get("classes", "auto") == "auto":
        node["classes"] = data.classes
    head = node.get("head")
    wants_quantizer = isinstance(head, dict) and head.get("quantizer") == "tokenizer"
    if wants_quantizer or node.get("digits") == "auto":
        quantizer = _tokenizer_of(data).config["quantizer"]
        if wants_quantizer:
            node["head"] = {**node["head"], "quantizer": quantizer}
        if node.get("digits") == "auto":
            levels = _levels(quantizer)
            every = levels and all(size == math.prod(levels) for size in vocabulary.codebook_sizes)
            node["digits"] = levels if every else None
    speaks = {"tokenizer": data.manifest.tokenizer, "labels": list(data.labels)}
    return {**config, "generator": node, "speaks": speaks}


def make_generator(config: Mapping[str, Any], data: Any | None = None) -> Generator:
    """The generator that a completed recipe describes; with data, the quantizer of its head is the tokenizer's."""
    generator = build(config["generator"])
    generator.tokenizer, generator.labels = config["speaks"]["tokenizer"], tuple(config["speaks"]["labels"])
    own = getattr(getattr(generator, "head", None), "quantizer", None)
    if own is not None and data is not None:
        own.load_state_dict(_tokenizer_of(data).quantizer.state_dict())
    return generator


def _levels(node: Any) -> list[int] | None:
    """Those of the first FSQ in a quantizer's node."""
    if not isinstance(node, Mapping):
        return None
    if node.get("_target_") == "quantizers.FSQ":
        return list(node["levels"])
    return next((levels for inner in node.values() if (levels := _levels(inner)) is not None), None)


def _tokenizer_of(data: TokenData) -> Any:
    try:
        return data.dataset.tokenizer
    except (KeyError, OSError, RuntimeError) as error:
        raise ValueError(
            f"the recipe needs the tokenizer {data.manifest.tokenizer!r} that made the tokens, which cannot be loaded: "
            f"{error}; give its own values in place of auto"
        ) from error
