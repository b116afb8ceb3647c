"""Whole trainings of a few steps: recipes, resumption, critics, fine-tuning, export."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

import zoo
from zoo.store.build import instantiate, public
from zoo.training import export_checkpoint, train
from zoo.training.__main__ import main
from zoo.training.optim import schedule
from zoo.training.report import Bar, Lines, progress
from zoo.training.run import resolve, training_module
from zoo.training.snapshots import last_checkpoint

RECIPE = "titok_tiny"
CRITIC = [
    "+objective.critic._target_=zoo.objectives.PatchCritic",
    "+objective.critic.channels=32",
    "+objective.critic.stages=1",
    "+objective.adversarial_start=2",
    "+objective.adaptive=true",
]


class StopAt(Callback):
    """Ends training after a step, as an interrupt would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step >= self.step:
            trainer.should_stop = True


class Watch(Callback):
    """Counts batches and remembers the module."""

    def __init__(self) -> None:
        self.batches, self.module = 0, None

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
        self.batches, self.module = self.batches + 1, pl_module


def state(run: Path) -> dict[str, Any]:
    path = last_checkpoint(run)
    assert path is not None
    checkpoint = torch.load(path, weights_only=True)
    return {key: value for key, value in checkpoint.items() if key != "recipe"}


@pytest.mark.parametrize("name", zoo.list_recipes("*_tiny", trains=True))
def test_two_steps_of_every_tiny_recipe(name: str, small: list[str], tmp_path: Path) -> None:
    modality = zoo.build(name, device="meta").spec.modality
    if modality != "image":
        small = [option for option in small if not option.startswith("data.root=")]  # they bring samples
    if modality == "audio":
        pytest.importorskip("soundfile")
        small.append("data.seconds=0.32")  # whole blocks of all of them
    folder = train(name, small)
    tokenizer = zoo.load(folder)
    weights = state(tmp_path / "run")["state_dict"]
    part = "average." if any(key.startswith("average.") for key in weights) else "tokenizer."  # without `ema`
    averaged = {key.removeprefix(part): value for key, value in weights.items() if key.startswith(part)}
    assert averaged.keys() == tokenizer.state_dict().keys()
    assert all(torch.equal(value, averaged[key]) for key, value in tokenizer.state_dict().items())
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert (tmp_path / "run" / "samples" / "step-000000002.png").is_file()


def test_every_recipe_is_complete() -> None:
    for name in zoo.list_recipes("*", trains=True):
        config = resolve(name, ["data.root=somewhere"])
        assert config["name"] == name
        assert Path(config["run_dir"]) == Path("runs") / name
        schedule(**config["schedule"], max_steps=config["trainer"]["max_steps"])
        data = instantiate(config["data"])
        if config["data"]["_target_"] == "zoo.data.AudioData":
            assert data.samples == round(config["data"]["seconds"] * config["data"]["sample_rate"])
        elif config["data"]["_target_"] == "zoo.data.ShapeData":
            assert data.points == config["data"]["points"] == zoo.build(name, device="meta").spec.input_shape[0]
        else:
            assert data.image_size == config["data"]["image_size"]
        public(config["objective"]["_target_"], ["zoo.objectives"])


def test_models_that_only_encode_are_not_trained(small: list[str]) -> None:
    for name in zoo.list_recipes("*", trains=False):
        assert not zoo.build(name, device="meta").spec.decodes
        with pytest.raises(ValueError, match="no training"):
            train(name, small)


def test_tensorboard_shows_terms_usage_and_pictures(small: list[str], tmp_path: Path) -> None:
    train(RECIPE, small)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    tags = events.Tags()
    wanted = {"train/loss", "train/l1", "train/usage", "train/grad_norm", "val/psnr", "val/perplexity", "val/usage"}
    assert wanted <= set(tags["scalars"])
    assert "val/reconstruction" in tags["images"]
    assert events.Scalars("val/psnr")[-1].step in (1, 2)


@pytest.mark.parametrize("extra", [[], [*CRITIC, "trainer.accumulate=2"]], ids=["plain", "critic-accumulate"])
def test_resumed_equals_uninterrupted(extra: list[str], small: list[str], tmp_path: Path, same: Any) -> None:
    options = [*small, *extra, "trainer.max_steps=6", "data.jitter=0.3", "trainer.validate_every=4"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train("onedpiece_tiny", [*options, f"run_dir={whole}"])
    train("onedpiece_tiny", [*options, f"run_dir={parts}"], callbacks=[StopAt(3)])
    assert state(parts)["global_step"] == 3
    watch = Watch()
    train("onedpiece_tiny", [*options, f"run_dir={parts}"], callbacks=[watch])
    assert watch.batches == 3 * (2 if extra else 1)
    assert state(parts)["global_step"] == 6
    one, two = state(whole), state(parts)
    compared = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")
    assert {key: same(one[key], two[key]) for key in compared} == dict.fromkeys(compared, True)


def test_critic_steps_do_not_count(small: list[str], tmp_path: Path) -> None:
    watch = Watch()
    options = [*small, *CRITIC, "trainer.max_steps=5", "trainer.checkpoint_minutes=0", "trainer.keep_checkpoints=9"]
    train(RECIPE, options, callbacks=[watch])
    assert watch.batches == 5
    saved = state(tmp_path / "run")
    assert saved["global_step"] == 5
    tokenizer_steps, critic_steps = (
        {int(entry["step"]) for entry in optimizer["state"].values()} for optimizer in saved["optimizer_states"]
    )
    assert tokenizer_steps == {5}
    assert critic_steps == {3}
    keys = saved["state_dict"]
    assert sum("critic" in key for key in keys) == len(watch.module.critic.state_dict())
    before = torch.load(tmp_path / "run" / "checkpoints" / "step-000000002.ckpt", weights_only=True)["state_dict"]
    learned = [key for key in keys if key.startswith("objective.critic") and "weight" in key]
    assert all(not torch.equal(before[key], keys[key]) for key in learned)
    assert not any("critic" in key for key in zoo.load(tmp_path / "run" / "model").state_dict())


def test_fine_tuning_starts_from_a_model_and_trains_a_part(small: list[str], tmp_path: Path) -> None:
    first = train(RECIPE, small)
    before = zoo.load(first).state_dict()
    options = [*small, f"run_dir={tmp_path / 'tuned'}", f"init_from={first}", "freeze=[encoder,quantizer]"]
    after = zoo.load(train(RECIPE, options)).state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"decoder"}
    options = [*small, f"run_dir={tmp_path / 'head'}", f"init_from={first}", "train_only=[encoder]", "ema=0"]
    after = zoo.load(train(RECIPE, options)).state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"encoder"}
    with pytest.raises(ValueError, match="no part of the tokenizer"):
        train(RECIPE, [*small, f"run_dir={tmp_path / 'x'}", "freeze=[trunk]"])
    with pytest.raises(ValueError, match="do not fit the recipe"):
        train(RECIPE, [*small, f"run_dir={tmp_path / 'x'}", f"init_from={first}", "num_tokens=8"])


def test_starting_over_sets_old_checkpoints_aside(small: list[str], tmp_path: Path) -> None:
    train(RECIPE, [*small, "trainer.max_steps=3"])
    train(RECIPE, [*small, "resume=never"])
    assert state(tmp_path / "run")["global_step"] == 2
    assert [path.name for path in (tmp_path / "run" / "checkpoints.1").iterdir()] == ["step-000000003.ckpt"]
    with pytest.raises(ValueError, match="written by another model"):
        train(RECIPE, [*small, "num_tokens=8"])
    with pytest.raises(ValueError, match="neither auto, never nor"):
        train(RECIPE, [*small, "resume=elsewhere.ckpt"])


def test_checkpoints_export_on_their_own(small: list[str], tmp_path: Path) -> None:
    folder = train(RECIPE, small)
    path = last_checkpoint(tmp_path / "run")
    assert path is not None
    again = zoo.load(export_checkpoint(path, tmp_path / "again")).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in zoo.load(folder).state_dict().items())
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="no checkpoint of zoo"):
        export_checkpoint(tmp_path / "other.ckpt", tmp_path / "x")


@pytest.mark.parametrize("extra", [["trainer.precision=bf16"], ["trainer.fast_dev_run=true"]], ids=["bf16", "dev"])
def test_other_ways_to_run(extra: list[str], small: list[str]) -> None:
    zoo.load(train(RECIPE, [*small, *extra]))


def test_fast_dev_run_leaves_a_real_run_alone(small: list[str], tmp_path: Path) -> None:
    train(RECIPE, [*small, "trainer.fast_dev_run=true"])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"dev"}


class Send(Callback):
    """Sends this process a signal after the second step."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), self.number)


def test_a_changed_rate_applies_after_a_resume(small: list[str], tmp_path: Path) -> None:
    train(RECIPE, small)
    train(RECIPE, [*small, "trainer.max_steps=4", "optimizer.lr=0.5", "schedule.kind=constant"])
    saved = state(tmp_path / "run")
    assert {group["lr"] for group in saved["optimizer_states"][0]["param_groups"]} == {0.5}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_signals_save_export_and_are_given_back(number: int, small: list[str], tmp_path: Path) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        train(RECIPE, [*small, "trainer.max_steps=9"], callbacks=[Send(number)])
    assert stop.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert state(tmp_path / "run")["global_step"] == 2
    zoo.load(tmp_path / "run" / "model")


def test_time_limit(small: list[str], tmp_path: Path) -> None:
    train(RECIPE, [*small, "trainer.max_steps=9", "trainer.max_minutes=0"])
    assert state(tmp_path / "run")["global_step"] == 1


def test_broken_weights_are_never_saved(small: list[str], tmp_path: Path) -> None:
    train(RECIPE, small)
    with pytest.raises((FloatingPointError, ValueError), match=r"NaN or infinite at step|expects finite latents"):
        train(RECIPE, [*small, "trainer.max_steps=9", "optimizer.lr=1e30", "trainer.gradient_clip=0"])
    assert state(tmp_path / "run")["global_step"] == 2


@pytest.mark.parametrize("extra", [[], CRITIC], ids=["plain", "critic"])
def test_half_precision_with_loss_scaling(extra: list[str], small: list[str]) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    config = resolve(RECIPE, [*small, *extra, "data.image_size=32"])
    module = training_module(zoo.build(config["tokenizer"]), instantiate(config["objective"]), config)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer = Trainer(
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        max_steps=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = {name: value.clone() for name, value in module.named_parameters() if value.requires_grad}
    trainer.fit(module, datamodule=instantiate(config["data"]))
    assert trainer.global_step == 5
    assert scaler.get_scale() == 1024.0
    moved = [name for name, value in module.named_parameters() if name in start and not torch.equal(value, start[name])]
    assert len(moved) == len(start)
    assert all(value.isfinite().all() for value in module.parameters())


def test_progress_bar_on_a_terminal(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    bar = progress(1, 2)
    assert isinstance(bar, Bar)
    monkeypatch.undo()
    assert isinstance(progress(1, 2), Lines)
    monkeypatch.setattr("zoo.training.run.progress", lambda *options: Bar(2))
    train(RECIPE, small)
    assert "2/2" in capsys.readouterr().out


@pytest.mark.slow
def test_compiled(small: list[str]) -> None:
    zoo.load(train(RECIPE, [*small, "trainer.compile=true"]))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["trainer.precision=12"], "precision is one of 32, bf16, 16"),
        (["trainer.strategy=magic"], "strategy is auto, ddp or fsdp"),
        (["schedule.kind=saw"], "kind is cosine or constant"),
        (["trainer.strategy=fsdp", *CRITIC], "without a critic"),
        (["data.root=???"], "data.root"),
        (["no_such_key=1"], "no_such_key"),
        (["logging.wandb=true"], "tokenizer-zoo"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_settings(extra: list[str], message: str, small: list[str]) -> None:
    if extra == ["logging.wandb=true"]:
        try:
            import wandb  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("wandb is installed")
    with pytest.raises(ValueError, match=message):
        train(RECIPE, [*small, *extra])


def test_command_line(capsys: pytest.CaptureFixture[str], small: list[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert main(["titok_tny"]) == 2
    assert "titok_tiny" in capsys.readouterr().err
    assert main(["onedpiece_tiny_128"]) == 2
    assert "data.root" in capsys.readouterr().err
