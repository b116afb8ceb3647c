"""`zoo prepare-meshes`: results, resumption, failures, processes that die."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

pytest.importorskip("trimesh")
pytest.importorskip("igl")

from zoo.cli.prepare import in_processes
from zoo.data import ShapeData

ASSETS = Path(__file__).parents[1] / "assets"
SMALL = ("--points", 256, "--sharp", 32, "--queries", 512, "--workers", 2)


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """Two meshes, one of them in a subfolder, one that is open, one that is damaged, and a file that is none."""
    root = tmp_path / "meshes"
    (root / "sub").mkdir(parents=True)
    shutil.copy(ASSETS / "blob.obj", root / "blob.obj")
    shutil.copy(ASSETS / "horse.glb", root / "sub" / "horse.glb")
    (root / "sheet.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 3 4\n")
    (root / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (root / "notes.txt").write_text("not a mesh")
    return root


def test_meshes_become_training_data(meshes: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    shapes = tmp_path / "shapes"
    result = cli("prepare-meshes", meshes, "-o", shapes, *SMALL)
    assert result.exit_code == 1, result.output
    assert "2 done, 2 failed" in result.output and "ambiguous queries: " in result.output
    assert sorted(path.name for path in shapes.rglob("*.safetensors")) == ["blob.safetensors", "horse.safetensors"]
    records = {Path(record["input"]).name: record for record in map(json.loads, (shapes / "errors.jsonl").open())}
    assert sorted(records) == ["nan.obj", "sheet.obj"]
    assert "NaN" in records["nan.obj"]["message"] and "inside" in records["sheet.obj"]["message"]

    data = ShapeData(str(shapes), points=64, volume=64, near=64, batch_size=2, num_workers=0, val_fraction=0.0)
    data.setup()
    assert next(iter(data.train_dataloader())).points.shape == (2, 64, 3)

    before = {path: path.stat().st_mtime_ns for path in shapes.rglob("*.safetensors")}
    (meshes / "nan.obj").unlink()
    (shapes / "blob.safetensors").unlink()
    result = cli("prepare-meshes", meshes, "-o", shapes, *SMALL)
    assert "1 done, 1 skipped" in result.output and "1 failed" in result.output
    after = {path: path.stat().st_mtime_ns for path in shapes.rglob("*.safetensors")}
    assert sum(before[path] == after[path] for path in before) == 1


def test_other_options_need_another_folder(meshes: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    shapes = tmp_path / "shapes"
    shapes.mkdir()
    assert cli("prepare-meshes", meshes / "blob.obj", "-o", shapes, *SMALL).exit_code == 0
    result = cli("prepare-meshes", meshes / "blob.obj", "-o", shapes, *SMALL, "--extent", 0.9)
    assert result.exit_code == 2
    assert "was prepared with extent 0.95, not 0.9; use another folder, or --overwrite" in " ".join(
        result.output.split()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--spread", "0.01;0.02"), "--spread expects numbers such as 0.01,0.05"),
        (("--queries", 100), "queries a multiple of 8"),
        (("--spread", "0"), "spreads are above 0"),
    ],
)
def test_wrong_options_are_told(
    meshes: Path, tmp_path: Path, cli: Callable[..., Result], options: tuple[object, ...], message: str
) -> None:
    result = cli("prepare-meshes", meshes, "-o", tmp_path / "shapes", *options)
    assert result.exit_code == 2 and message in " ".join(result.output.split())
    assert not (tmp_path / "shapes").exists()


def test_a_process_that_dies_takes_one_task_with_it() -> None:
    tasks = ["1", "__import__('os')._exit(9)", "2", "int('as told')", "3"]
    found = dict(in_processes(eval, tasks, 2))
    assert [found[task] for task in ("1", "2", "3")] == [1, 2, 3]
    assert isinstance(found[tasks[3]], ValueError) and "as told" in str(found[tasks[3]])
    assert isinstance(found[tasks[1]], RuntimeError) and "its process died" in str(found[tasks[1]])
