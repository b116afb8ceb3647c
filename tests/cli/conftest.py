"""Two small tokenizers in folders: one of a fixed size whose prefixes decode, one of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import zoo
from zoo.cli import app

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="session")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> str:
    size = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "num_tokens": 8, "dim": 4}
    torch.manual_seed(0)
    tokenizer = zoo.build(
        {
            "_target_": "zoo.families.OneDPiece",
            "encoder": {"_target_": "encoders.ViT1D", **size},
            "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 5, 5, 5]},
            "decoder": {"_target_": "decoders.ViT1DDecoder", **size},
        }
    )
    return str(tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "flexible"))


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    tokenizer = zoo.build(
        {
            "_target_": "zoo.families.GridTokenizer",
            "image_size": 64,
            "encoder": {"_target_": "encoders.PatchConvEncoder", "dim": 6, "width": 12, "depth": 1},
            "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 8, 8, 5, 5, 5]},
            "decoder": {"_target_": "decoders.PatchConvDecoder", "dim": 6, "width": 12, "depth": 1, "fine_width": 8},
        }
    )
    return str(tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "grid"))


@pytest.fixture
def cli() -> Callable[..., Result]:
    def call(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three pictures, one of them in a subfolder, and one file that is none."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for name, place in (("chelsea.jpg", "chelsea.jpg"), ("rocket.webp", "rocket.webp"), ("cat_64.png", "sub/cat.png")):
        (root / place).write_bytes((ASSETS / name).read_bytes())
    (root / "notes.txt").write_text("not a picture")
    return root
