"""A folder of exported tokens of six photographs in three classes, made by a small tokenizer with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import zoo
from zoo.cli import app

ASSETS = Path(__file__).resolve().parents[1] / "assets"
PHOTOS = {"cat": ("chelsea.jpg", "cat_64.png"), "sky": ("rocket.webp",), "table": ("coffee.jpg", "astronaut.jpg")}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors: threads only add noise."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs in folders by class."""
    folder = tmp_path_factory.mktemp("classes")
    for label, names in PHOTOS.items():
        (folder / label).mkdir()
        for name in names:
            shutil.copy(ASSETS / name, folder / label)
    return folder


@pytest.fixture(scope="session")
def exported(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `zoo export` makes of them with a TiTok of random weights."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("tokens")
    torch.manual_seed(0)
    zoo.build("titok_tiny").save_pretrained(folder / "titok")
    arguments = ["export", str(folder / "titok"), "--data", str(photographs), "--to", "parquet"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(folder / "out"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return folder / "out"
