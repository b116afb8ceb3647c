"""A training from recipe to exported model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from zoo.store.build import build, compose, instantiate
from zoo.store.cards import check_trains
from zoo.tokenizer import Tokenizer
from zoo.training.adversarial import AdversarialTraining
from zoo.training.export import export_checkpoint
from zoo.training.generation import GeneratorTraining, complete, make_generator
from zoo.training.module import TokenizerTraining
from zoo.training.optimised import Settings, Training
from zoo.training.report import progress
from zoo.training.snapshots import Snapshots, last_checkpoint

__all__ = ["resolve", "train"]

NUMBERS = {
    "optimizer": ("lr", "eps", "weight_decay"),
    "schedule": ("warmup_steps", "final"),
    "trainer": ("max_steps", "accumulate", "log_every", "validate_every", "checkpoint_minutes", "keep_checkpoints"),
}
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def train(recipe: str, overrides: Sequence[str] = (), *, callbacks: Sequence[Callback] = ()) -> Path:
    """Train a recipe, or go on with its last checkpoint, and export the model.

    Args:
        recipe: a name of `zoo.list_recipes()`.
        overrides: Hydra overrides such as `data.root=photos` or `trainer.max_steps=1000`.
        callbacks: further Lightning callbacks.

    Returns:
        The model folder `RUN_DIR/model`, which `zoo.load` opens.

    Raises:
        KeyError: no such recipe; the closest names are suggested.
        ValueError: a setting does not fit, or `run_dir` holds a run with another model.
        SystemExit: SIGTERM or SIGINT arrived; state and model were saved before. The code is 128 + signal.
    """
    _quiet()
    config = resolve(recipe, overrides)
    options = config["trainer"]
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    folder = Path(config["run_dir"]) / ("dev" if options["fast_dev_run"] else "")
    data = instantiate(config["data"])
    data.record_errors(folder / "errors.jsonl")
    if "generator" in config:
        config = complete(config, data)
    checkpoint = None if options["fast_dev_run"] else _resume_from(config, folder)

    seed_everything(config["seed"], workers=False, verbose=False)
    fresh = checkpoint is None
    module = _generator_module(config, data, fresh) if "generator" in config else _tokenizer_module(config, fresh)
    snapshots = Snapshots(
        folder / "checkpoints",
        options["checkpoint_minutes"],
        options["keep_checkpoints"],
        options["max_minutes"],
        fresh=options["fast_dev_run"] or config["resume"] != "auto",
    )
    trainer = build_trainer(config, folder, module, [*callbacks, snapshots])
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    target = folder / "model"
    if trainer.is_global_zero:
        if (last := last_checkpoint(folder) or checkpoint) is None:
            raise ValueError(f"nothing was trained: trainer.max_steps={options['max_steps']}")
        export_checkpoint(last, target)
        if data.errors.count:
            print(f"{data.errors.count} unreadable files were skipped; see {folder / 'errors.jsonl'}")
    if snapshots.received is not None:
        raise SystemExit(128 + snapshots.received)
    return target


def _tokenizer_module(config: Mapping[str, Any], fresh: bool) -> TokenizerTraining:
    """A tokenizer and its objective; `fresh` where no checkpoint will replace the weights."""
    tokenizer = build(config["tokenizer"])
    if config["init_from"] and fresh:
        from zoo.store.load import load

        _start_from(tokenizer, config["init_from"], load)
    objective = instantiate(config["objective"])
    if hasattr(objective, "prepare"):
        objective.prepare(tokenizer, fresh=not config["init_from"])
    return training_module(tokenizer, objective, config)


def _generator_module(config: Mapping[str, Any], data: Any, fresh: bool) -> GeneratorTraining:
    """A generator of the codes in the data; `fresh` as for tokenizers."""
    generator = make_generator(config, data if fresh else None)
    if config["init_from"] and fresh:
        from zoo.generators.pipeline import load

        _start_from(generator, config["init_from"], load)
    return GeneratorTraining(generator, _settings(config))


def resolve(recipe: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe as plain data, with `name` set.

    Raises:
        KeyError: no such recipe.
        ValueError: a recipe without a training, an override, a missing value (`???`), or text where a number belongs.
    """
    check_trains(recipe)
    node = compose(recipe, [*overrides, f"+name={recipe}"])
    try:
        config = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"recipe {recipe!r}: {error}; give it on the command line, for example "
            f"{'data.tokens=DIR' if 'generator' in node else 'data.root=DIR'}"
        ) from error
    assert isinstance(config, dict)
    for section, names in NUMBERS.items():
        for name in names:
            if not isinstance(value := config[section][name], int | float):
                raise ValueError(f"{section}.{name} is a number, got {value!r}")
    return {str(key): value for key, value in config.items()}


def training_module(tokenizer: Tokenizer, objective: nn.Module, config: Mapping[str, Any]) -> TokenizerTraining:
    """The Lightning module that a resolved recipe describes."""
    settings = _settings(config)
    if getattr(objective, "critic", None) is None:
        return TokenizerTraining(tokenizer, objective, settings)
    if config["trainer"]["strategy"] == "fsdp":
        raise ValueError("trainer.strategy=fsdp trains recipes without a critic; use trainer.strategy=ddp")
    return AdversarialTraining(tokenizer, objective, settings)


def _settings(config: Mapping[str, Any]) -> Settings:
    options = config["trainer"]
    return Settings(
        optimizer={**config["optimizer"], "betas": tuple(config["optimizer"]["betas"])},
        schedule=dict(config["schedule"]),
        max_steps=options["max_steps"],
        accumulate=options["accumulate"],
        gradient_clip=options["gradient_clip"] or 0.0,
        ema=config["ema"] or 0.0,
        freeze=config["freeze"],
        train_only=config["train_only"],
        compile=options["compile"],
        seed=config["seed"],
        config=dict(config),
    )


def build_trainer(config: Mapping[str, Any], folder: Path, module: Training, callbacks: Sequence[Callback]) -> Trainer:
    """The Lightning trainer that a resolved recipe describes.

    Args:
        config: the recipe.
        folder: of the run.
        module: what is trained.
        callbacks: beside those that report.

    Raises:
        ValueError: unknown precision or strategy.
    """
    options = config["trainer"]
    precision = str(options["precision"])
    if precision not in PRECISIONS:
        raise ValueError(f"trainer.precision is one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "16" and options["strategy"] == "fsdp":
        raise ValueError("trainer.strategy=fsdp trains in 32 or bf16; set trainer.precision=bf16")
    return Trainer(
        default_root_dir=folder,
        accelerator=options["accelerator"],
        devices=options["devices"],
        num_nodes=options["num_nodes"],
        strategy=strategy(options),
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        max_steps=options["max_steps"],
        max_epochs=-1,
        accumulate_grad_batches=options["accumulate"] if module.automatic_optimization else 1,
        # Counted in batches; the endless loader has no epochs.
        val_check_interval=options["validate_every"] * options["accumulate"],
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=options["log_every"],
        logger=_loggers(config, folder),
        callbacks=[
            module.samples(folder / "samples", config["logging"]["images"], options["log_every"]),
            progress(options["log_every"], options["max_steps"]),
            *callbacks,
        ],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        fast_dev_run=options["fast_dev_run"],
    )


def strategy(options: Mapping[str, Any]) -> Any:
    """Lightning's strategy for the trainer node of a recipe; "auto" is DDP as soon as there are several processes.

    Raises:
        ValueError: unknown name.
    """
    name, devices = options["strategy"], options["devices"]
    if name not in ("auto", "ddp", "fsdp"):
        raise ValueError(f"trainer.strategy is auto, ddp or fsdp, got {name!r}")
    if str(devices) in ("auto", "-1"):
        count = 1 if options["accelerator"] == "cpu" else max(1, torch.cuda.device_count())
    else:
        count = len(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else int(devices)
    processes = count * options["num_nodes"]
    if name == "fsdp":
        return ModelParallelStrategy(processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
    # A critic, or a part that a step leaves out, has no gradient in some backward passes.
    return DDPStrategy(find_unused_parameters=True) if name == "ddp" or processes > 1 else "auto"


def _loggers(config: Mapping[str, Any], folder: Path) -> list[Logger]:
    loggers: list[Logger] = []
    if config["trainer"]["fast_dev_run"]:
        return loggers
    if config["logging"]["tensorboard"]:
        loggers.append(TensorBoardLogger(folder, name="", version="logs"))
    if config["logging"]["wandb"]:
        try:
            loggers.append(WandbLogger(name=config["name"], save_dir=folder, project="tokenizer-zoo"))
        except ModuleNotFoundError as error:
            raise ValueError("logging.wandb=true needs `pip install tokenizer-zoo[wandb]`") from error
    return loggers


def _resume_from(config: Mapping[str, Any], folder: Path) -> Path | None:
    """The checkpoint to go on with, after checking that it belongs to this model."""
    if config["resume"] == "never":
        return None
    path = last_checkpoint(folder) if config["resume"] == "auto" else Path(config["resume"])
    if path is None:
        return None
    if not path.is_file():
        raise ValueError(f"resume={config['resume']!r} is neither auto, never nor a checkpoint file")
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["recipe"]
    kind = "generator" if "generator" in config else "tokenizer"
    if stored.get(kind) != config[kind]:
        raise ValueError(
            f"{path} was written by another model than recipe {config['name']!r} now describes; "
            "choose another run_dir, or start over with resume=never"
        )
    print(f"going on with {path}")
    return path


def _start_from(model: nn.Module, name: str, load: Callable[[str], nn.Module]) -> None:
    source = load(name)
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ValueError(f"init_from={name}: the weights do not fit the recipe's model: {error}") from error


def _quiet() -> None:
    """Silence advice that does not fit: few workers, modules in eval mode and one log folder are on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*in eval mode at the start of training.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*Total length of `list` across ranks is zero.*",
    ):
        warnings.filterwarnings("ignore", message)
