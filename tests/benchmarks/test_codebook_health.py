"""The benchmark of codebook usage, on a few small pictures and for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import benchmarks.codebook_health as health
from benchmarks.health_figure import COLOURS, draw

ASSETS = Path(__file__).parents[1] / "assets"
RESULTS = [
    {"name": "FSQ", "bits": 12, "psnr": 25.0, "sizes": [4096], "usage": 0.5, "perplexity": 256.0},
    {"name": "FSQ", "bits": 16, "psnr": 26.0, "sizes": [64000], "usage": 0.25, "perplexity": 4096.0},
    {"name": "VQ", "bits": 12, "psnr": 21.0, "sizes": [4096], "usage": 0.01, "perplexity": 8.0},
    {"name": "SimVQ", "bits": 12, "psnr": 28.0, "sizes": [4096], "usage": 0.95, "perplexity": 2048.0},
    {"name": "KL, continuous", "bits": 12, "psnr": 40.0, "sizes": []},
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for part, name in (("train", "chelsea.jpg"), ("val", "coffee.jpg")):
        (root / part).mkdir()
        with Image.open(ASSETS / name) as photo:
            photo.resize((240, 160)).save(root / part / "photo.png")
    return root


def command(photos: Path, output: Path, *more: str) -> None:
    health.main(["--photos", str(photos), "--output", str(output), "--crops", "4", *more])


def test_trains_measures_draws_and_goes_on_where_it_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(photos, tmp_path, "--steps", "2", "--only", "^(FSQ|Product).*12$")
    first = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [row["name"] for row in first["results"]] == ["Product, 2 groups", "FSQ"]
    for row in first["results"]:
        assert 0 < row["usage"] <= 1
        assert 1 <= row["perplexity"] <= 4 * 64
        assert row["psnr"] > 5
    assert "collapsed: FSQ" in capsys.readouterr().out
    assert Image.open(tmp_path / "codebook_health.png").width > 1000

    tried = []
    train = health.run
    monkeypatch.setattr(health, "run", lambda name, *given: tried.append(name) or train(name, *given))
    command(photos, tmp_path, "--steps", "2", "--only", "^(FSQ|Product|KL)")
    assert tried == ["KL, continuous", "Product, 2 groups", "FSQ"]
    kept = json.loads((tmp_path / "results.json").read_text("utf-8"))["results"]
    assert kept[:2] == first["results"]
    assert "usage" not in kept[2]


def test_results_of_other_settings_are_not_mixed(photos: Path, tmp_path: Path) -> None:
    command(photos, tmp_path, "--steps", "1", "--only", "^KL")
    with pytest.raises(SystemExit):
        command(photos, tmp_path, "--steps", "2", "--only", "^KL")


def test_same_seed_same_result(photos: Path) -> None:
    settings = health.Settings(steps=2, crops=4)
    train = health.Photos(photos / "train", settings)
    held_out = health.Photos(photos / "val", settings).draw(4, torch.Generator().manual_seed(1))
    first, second = (health.run("SimVQ", 12, train, held_out) for _ in range(2))
    assert {**first, "cpu_seconds": 0} == {**second, "cpu_seconds": 0}


@pytest.mark.parametrize("name", list(health.QUANTIZERS))
@pytest.mark.parametrize("bits", health.BITS)
def test_every_quantizer_has_about_as_many_codes(name: str, bits: int) -> None:
    quantizer = health.QUANTIZERS[name].make(32, bits)
    total = 1.0
    for size in quantizer.codebook_sizes:
        total *= size
    assert total == 1 or 0.95 * 2**bits <= total <= 2**bits


def test_crops_are_not_flat(tmp_path: Path) -> None:
    photo = Image.new("RGB", (400, 160), "#808080")
    photo.paste(Image.linear_gradient("L").resize((160, 160)), (240, 0))
    photo.save(tmp_path / "half.png")
    crops = health.Photos(tmp_path, health.Settings()).draw(8, torch.Generator().manual_seed(0))
    assert crops.shape == (8, 3, 32, 32)
    assert crops.mean(1).flatten(1).std(1).min() > 8 / 127.5


def test_only_broken_claims_count_as_collapsed() -> None:
    assert health.collapsed(RESULTS) == ["FSQ: 50.0%"]


def test_table_has_a_row_for_each_quantizer() -> None:
    lines = health.table(RESULTS).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| FSQ | 50.0% | 256 | 25.00 dB | 25.0% | 4,096 | 26.00 dB |" in lines
    assert "| KL, continuous | - | - | 40.00 dB |  |  |  |" in lines


def test_figure_has_a_mark_for_each_number() -> None:
    def pixels(results: list[dict[str, object]], colour: str) -> int:
        rgb = tuple(bytes.fromhex(colour[1:]))
        return sum(
            count for count, found in draw(results, list(health.QUANTIZERS), (12, 16)).getcolors(2**24) if found == rgb
        )

    legend = pixels(RESULTS[-1:], COLOURS[0])
    one = pixels(RESULTS[:1], COLOURS[0]) - legend
    assert legend > 100
    assert one == pytest.approx(3 * legend, rel=0.1)
    assert pixels(RESULTS, COLOURS[0]) - legend == pytest.approx(3 * one, rel=0.1)
    assert pixels(RESULTS, COLOURS[1]) > 3 * pixels(RESULTS[:1], COLOURS[1])
