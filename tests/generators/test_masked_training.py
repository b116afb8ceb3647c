"""`zoo train maskgit_tiny` and `rar_tiny`: two steps on exported tokens, resumed as if never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from zoo.generators import RAR
from zoo.generators.pipeline import load
from zoo.training import train
from zoo.training.snapshots import last_checkpoint


class Shares(Callback):
    """Notes RAR's share of random orders, and ends the training after some steps."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module, *rest: object) -> None:  # type: ignore[no-untyped-def]
        if isinstance(pl_module.net, RAR):
            self.seen.append(pl_module.net.random_share)
        if trainer.global_step == self.stop:
            trainer.should_stop = True


@pytest.fixture
def small(exported: Path, tmp_path: Path) -> list[str]:
    """Overrides for a training of seconds."""
    return [
        f"data.tokens={exported}",
        f"run_dir={tmp_path / 'run'}",
        "data.batch_size=2",
        "data.val_fraction=0.4",
        "generator.width=16",
        "generator.depth=2",
        "generator.heads=2",
        "generator.hidden=32",
        "schedule.warmup_steps=1",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "trainer.validate_every=2",
        "trainer.log_every=1",
        "logging.tensorboard=false",
        "logging.images=0",
    ]


@pytest.mark.parametrize("name", ["maskgit_tiny", "rar_tiny"])
def test_two_steps_write_a_generator(name: str, small: list[str]) -> None:
    generator = load(train(name, small))
    assert generator.classes == 3 and generator.labels == ("cat", "sky", "table")
    drawn = generator.generate(torch.tensor([0, 2]), generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (2, generator.vocabulary.num_tokens, 1)
    assert drawn.min() >= 0 and drawn.max() < generator.vocabulary.codebook_sizes[0]


def test_orders_fade_and_resumption_changes_nothing(small: list[str], tmp_path: Path) -> None:
    """Half of four steps in random order, then one at a half share of the way, then none."""
    shares, resumed = Shares(), Shares()
    steps = ["trainer.max_steps=4", "generator.random_steps=[1,3]"]
    train("rar_tiny", [*small, *steps, f"run_dir={tmp_path / 'whole'}"], callbacks=[shares])
    train("rar_tiny", [*small, *steps], callbacks=[Shares(stop=2)])
    train("rar_tiny", [*small, *steps], callbacks=[resumed])
    assert shares.seen == [1.0, 1.0, 0.5, 0.0] and resumed.seen == [0.5, 0.0]
    whole, parts = (last_checkpoint(tmp_path / name) for name in ("whole", "run"))
    assert whole is not None and parts is not None
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (whole, parts))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
