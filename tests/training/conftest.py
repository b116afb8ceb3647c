"""A folder of small pictures with structure, and the overrides that make a recipe small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve noisy colour gradients, 96 x 80."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 96)[None, :, None] * np.linspace(1, 0, 80)[:, None, None]
    for number in range(12):
        picture = ramp * rng.uniform(0, 200, 3) + rng.uniform(0, 55, (80, 96, 3))
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def small(photos: Path, tmp_path: Path) -> list[str]:
    """Overrides for a training of seconds on one CPU."""
    return [
        f"data.root={photos}",
        f"run_dir={tmp_path / 'run'}",
        "data.batch_size=2",
        "data.num_workers=0",
        "data.val_fraction=0.2",
        "data.val_size=4",
        "schedule.warmup_steps=2",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "trainer.validate_every=2",
        "trainer.log_every=1",
        "trainer.precision=32",
        "logging.images=2",
    ]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors: threads only add noise, and sums must have one order."""
    torch.set_num_threads(1)


def same(left: object, right: object) -> bool:
    """Whether two checkpoints' nested data are equal bit for bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.fixture(name="same")
def same_fixture() -> object:
    """`same` as a fixture: test folders are no packages."""
    return same
