"""Trainings on shapes: what a run leaves to look at, resumption, and batches that fit neither model nor objective."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import zoo
import zoo.training.samples as samples_module
from zoo.data.shapes_batch import Shapes
from zoo.families.shape import cell_centres
from zoo.objectives import ImageObjective, OccupancyObjective
from zoo.training import train
from zoo.training.module import reconstruct
from zoo.training.samples import Renders, samples
from zoo.training.snapshots import last_checkpoint

SMALL = ["data.volume=64", "data.near=32", "data.points=128", "tokenizer.num_points=128"]


@pytest.fixture
def options(small: list[str]) -> list[str]:
    """Overrides for a training of seconds on the sample shapes."""
    return [*(option for option in small if not option.startswith("data.root=")), *SMALL]


def state(run: Path) -> dict[str, Any]:
    path = last_checkpoint(run)
    assert path is not None
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("objective", ["shape", "shape_sdf", "shape_grid"])
def test_a_run_leaves_pictures_and_numbers(objective: str, options: list[str], tmp_path: Path) -> None:
    recipe = "trellis_ss_tiny" if objective == "shape_grid" else "vecset_tiny"
    extra = ["data.target=sdf"] if objective == "shape_sdf" else []
    folder = train(recipe, [*options, f"objective={objective}", *extra])
    assert zoo.load(folder).spec.modality == "shape"
    with Image.open(tmp_path / "run" / "samples" / "step-000000002.png") as sheet:
        assert sheet.width > 4 * 320
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(tmp_path / "run" / "logs"), {"images": 0}).Reload().Tags()
    assert {"val/iou", "val/volume", "val/near", "train/volume", "train/loss", "train/kl"} <= set(tags["scalars"])
    assert ("val/dice" in tags["scalars"]) == (objective == "shape_grid")
    assert ("val/eikonal" in tags["scalars"]) == ("val/surface" in tags["scalars"]) == (objective == "shape_sdf")
    assert tags["images"] == ["val/reconstruction"]


def test_resumed_equals_uninterrupted(options: list[str], tmp_path: Path, same: Any) -> None:
    options = [*options, "objective=shape_sdf", "data.target=sdf", "data.jitter=0.01", "trainer.max_steps=5"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train("vecset_tiny", [*options, f"run_dir={whole}"])
    train("vecset_tiny", [*options, f"run_dir={parts}", "trainer.max_steps=2"])
    train("vecset_tiny", [*options, f"run_dir={parts}", "data.num_workers=2"])
    one, two = state(whole), state(parts)
    assert one["global_step"] == 5
    compared = ("state_dict", "optimizer_states", "global_step")
    assert {key: same(one[key], two[key]) for key in compared} == dict.fromkeys(compared, True)


def shapes(count: int = 2, queries: int = 40) -> Shapes:
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(count, queries, 3, generator=generator) * 2 - 1
    values = (places.norm(dim=-1) < 0.9).float()
    return Shapes(torch.rand(count, 128, 3, generator=generator), places, values, values < 0)


def test_batches_of_shapes_need_models_and_objectives_for_them() -> None:
    with pytest.raises(ValueError, match="the data are shapes, which a TiTok cannot learn from"):
        reconstruct(zoo.build("titok_tiny"), shapes(), OccupancyObjective())
    vecset = zoo.build("vecset_tiny")
    with pytest.raises(ValueError, match="with a ImageObjective"):
        reconstruct(vecset, shapes(), ImageObjective())
    x, reconstruction = reconstruct(vecset, shapes(), OccupancyObjective())
    assert isinstance(x, Shapes) and reconstruction.output.shape == x.values.shape


def test_clouds_are_drawn_beside_surfaces(tmp_path: Path) -> None:
    """Of a ball, and of a reconstruction that is not finite."""
    shown = Renders(tmp_path, 2, 1)
    trainer: Any = SimpleNamespace(global_step=7, is_global_zero=True, loggers=[])
    centres = cell_centres(torch.arange(12**3), 12)
    ball = (0.6 - centres.norm(dim=-1)).view(1, 1, 12, 12, 12)
    batch = shapes()
    best = Best(torch.cat([ball, torch.full_like(ball, torch.nan)]))
    module: Any = SimpleNamespace(usage=lambda part: {}, log_dict=lambda *_, **__: None, best=best)
    shown.on_validation_batch_end(trainer, module, {}, batch, 0)
    shown.on_validation_epoch_end(trainer, module)
    with Image.open(tmp_path / "step-000000007.png") as sheet:
        panels = [sheet.crop((336 * place + 16, 16, 336 * place + 336, 336)) for place in range(4)]
    empty = [panel.convert("L").getextrema()[0] > 250 for panel in panels]
    assert empty == [False, False, False, True]


class Best:
    """A tokenizer that gives these grids."""

    bounds = 1.0

    def __init__(self, grids: torch.Tensor) -> None:
        self.grids = grids

    def __call__(self, points: torch.Tensor) -> Any:
        return SimpleNamespace(output=self.grids)


def test_pictures_need_scikit_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samples_module, "find_spec", lambda name: None)
    spec = zoo.build("vecset_tiny", device="meta").spec
    with pytest.raises(ValueError, match=r"logging\.images=0"):
        samples(spec, tmp_path, 2, 1)
    assert samples(spec, tmp_path, 0, 1).count == 0
