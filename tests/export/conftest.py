"""Small tokenizers in folders, folders of real pictures, and a way to compare what exports wrote."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo.export.format import Manifest
from zoo.export.job import run_export
from zoo.export.request import Request

ASSETS = Path(__file__).parents[1] / "assets"
SIZES = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "num_tokens": 8, "dim": 4}


@pytest.fixture(scope="session")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One size, 8 tokens of 1000 codes whose prefixes decode."""
    torch.manual_seed(0)
    node = {
        "_target_": "zoo.families.OneDPiece",
        "encoder": {"_target_": "encoders.ViT1D", **SIZES},
        "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 5, 5, 5]},
        "decoder": {"_target_": "decoders.ViT1DDecoder", **SIZES},
    }
    return str(zoo.build(node).save_pretrained(tmp_path_factory.mktemp("models") / "flexible"))


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Any size, a token of 64 000 codes for 8 x 8 pixels."""
    torch.manual_seed(0)
    node = {
        "_target_": "zoo.families.GridTokenizer",
        "image_size": 64,
        "encoder": {"_target_": "encoders.PatchConvEncoder", "dim": 6, "width": 12, "depth": 1},
        "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 8, 8, 5, 5, 5]},
        "decoder": {"_target_": "decoders.PatchConvDecoder", "dim": 6, "width": 12, "depth": 1, "fine_width": 8},
    }
    return str(zoo.build(node).save_pretrained(tmp_path_factory.mktemp("models") / "grid"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures in three classes, one file that is broken, a caption, and metadata."""
    root = tmp_path_factory.mktemp("data") / "photos"
    places = ("cats/chelsea.jpg", "cats/cat_64.png", "food/coffee.jpg", "space/astronaut.jpg", "space/rocket.webp")
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ASSETS / Path(place).name, root / place)
    (root / "food/broken.jpg").write_bytes(b"no picture")
    (root / "cats/chelsea.txt").write_text("a  cat\nlooks")
    lines = [
        {"file_name": "cats/chelsea.jpg", "stars": 5, "width": 451, "source": {"by": "Stéfan"}, "hash": 2**63},
        {"file_name": "food/coffee.jpg", "stars": 3, "caption": "a cup", "hash": -(2**63)},
    ]
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty crops of real pictures, 32 x 32."""
    root = tmp_path_factory.mktemp("data") / "crops"
    root.mkdir()
    names = ("chelsea.jpg", "coffee.jpg", "astronaut.jpg")
    for name in names:
        with Image.open(ASSETS / name) as picture:
            for step in range(20):
                box = (8 * step, 5 * step, 8 * step + 32, 5 * step + 32)
                picture.convert("RGB").crop(box).save(root / f"{Path(name).stem}-{step:02d}.png")
    return root


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """Runs an export into a new folder and gives it."""

    def run(model: str, data: Path | str, to: str = "parquet", name: str | None = None, **options: object) -> Path:
        folder = tmp_path / (name or f"{to}-{len(list(tmp_path.iterdir()))}")
        request = Request(model, str(data), to, **{"shard_items": 2, "batch_size": 2, **options})  # type: ignore[arg-type]
        assert isinstance(run_export(request, folder), Manifest)
        return folder

    return run


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def same() -> Callable[[Path, Path], None]:
    """Fails unless two folders hold the same files."""

    def check(one: Path, two: Path) -> None:
        assert digests(one) == digests(two)

    return check
