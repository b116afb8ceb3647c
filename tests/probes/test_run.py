"""Probes of small tokenizers on small sets with classes that show, and what is recorded of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.data.audio import write_audio
from zoo.evaluation.origin import digest_of_weights
from zoo.probes import Probe, probe
from zoo.probes.classifier import Schedule
from zoo.tokenizer import Tokenizer

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 40, 50)}
QUICK = Schedule(epochs=4, repetitions=2)


def build(**node: Any) -> Tokenizer:
    torch.manual_seed(0)
    return zoo.build(node).eval()


@pytest.fixture(scope="module")
def grid() -> Tokenizer:
    return build(
        _target_="zoo.families.GridTokenizer",
        image_size=16,
        encoder={"_target_": "encoders.PatchConvEncoder", "dim": 6, "width": 12, "depth": 1},
        quantizer={"_target_": "quantizers.FSQ", "levels": [8, 8, 8, 5, 5, 5]},
        decoder={"_target_": "decoders.PatchConvDecoder", "dim": 6, "width": 12, "depth": 1, "fine_width": 8},
    )


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Twelve noisy pictures of each of three colours, one file that is no picture, and an empty one."""
    generator = np.random.default_rng(0)
    root = tmp_path / "colours"
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.array(colour) + generator.normal(0, 25, (20, 24, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    (root / "red" / "broken.png").write_bytes(b"no picture")
    (root / "red" / "empty.png").write_bytes(b"")
    return root


def test_pictures(grid: Tokenizer, colours: Path) -> None:
    told: list[tuple[str, bool]] = []
    counts: list[int] = []
    found = probe(
        grid,
        colours,
        how=Probe(neighbours=3, batch_size=5),
        name="grid",
        told=lambda name, error: told.append((name, error is None)),
        started=counts.append,
    )
    rows = {(row["kind"], row["features"]): row for row in found["results"]}
    assert set(rows) == {(kind, way) for kind in ("linear", "knn") for way in ("mean", "concatenated")}
    assert rows["linear", "concatenated"]["width"] == 4 * 6 and rows["linear", "mean"]["width"] == 6
    assert rows["linear", "concatenated"]["accuracy"] > 0.8
    for row in found["results"]:
        low, high = row["interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
    assert counts == [38] and len(told) == 38 and sum(good for _, good in told) == 36
    assert found["chance"] == found["majority"] == pytest.approx(1 / 3) and found["classes"] == sorted(COLOURS)
    assert {part: sum(count) for part, count in found["counts"].items()} == {"train": 24, "validation": 6, "test": 6}
    assert {item["name"] for item in found["failed"]} == {"red/broken.png", "red/empty.png"}
    assert found["weights"] == digest_of_weights(grid) and len(found["data"]["digest"]) == 64
    assert json.loads(json.dumps(found)) == found


def test_the_same_again_whatever_the_batches(grid: Tokenizer, colours: Path) -> None:
    kinds = ("linear", "knn", "classifier")
    first, second = (
        probe(grid, colours, how=Probe(kinds, schedule=QUICK, batch_size=size, size=32)) for size in (2, 16)
    )
    assert first["results"] == second["results"] and first["data"] == second["data"]
    assert len(first["results"][-1]["repetitions"]) == 2 and first["protocol"]["view"] == {
        "size": [32, 32],
        "fit": "crop",
    }


def test_test_folder(grid: Tokenizer, colours: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    for name in ("red", "green"):
        (test / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), COLOURS[name]).save(test / name / "one.png")
    found = probe(grid, colours, test, Probe(("knn",)))
    assert found["counts"]["test"] == [0, 1, 1] and sum(found["counts"]["train"] + found["counts"]["validation"]) == 36
    assert found["protocol"]["split"] == "test folder" and found["test"]["digest"] != found["data"]["digest"]
    (test / "pink").mkdir()
    Image.new("RGB", (16, 16)).save(test / "pink" / "one.png")
    with pytest.raises(ValueError, match="never learned: pink"):
        probe(grid, colours, test)


def test_bad_data_is_explained(grid: Tokenizer, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "one" / "red").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "one" / "red" / "a.png")
    with pytest.raises(ValueError, match="needs two or more, got red"):
        probe(grid, tmp_path / "one")
    (tmp_path / "one" / "blue").mkdir()
    (tmp_path / "one" / "blue" / "a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no item of class 'blue' could be read"):
        probe(grid, tmp_path / "one")
    Image.new("RGB", (16, 16)).save(tmp_path / "one" / "blue" / "b.png")
    with pytest.raises(ValueError, match="class 'blue' has 1 readable item"):
        probe(grid, tmp_path / "one")
    with pytest.raises(ValueError, match="does not exist"):
        probe(grid, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="linear, knn, classifier"):
        Probe(("forest",))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Probe(fraction=1.0)


def test_continuous_latents(colours: Path) -> None:
    tokenizer = build(
        _target_="zoo.families.GridTokenizer",
        image_size=16,
        encoder={"_target_": "encoders.PatchConvEncoder", "dim": 8, "width": 12, "depth": 1},
        quantizer={"_target_": "quantizers.KL", "dim": 4},
        decoder={"_target_": "decoders.PatchConvDecoder", "dim": 4, "width": 12, "depth": 1, "fine_width": 8},
    )
    assert tokenizer.spec.continuous
    found = probe(tokenizer, colours, how=Probe(("linear", "classifier"), schedule=QUICK))
    assert [row["kind"] for row in found["results"]] == ["linear", "linear", "classifier"]
    assert found["results"][1]["accuracy"] > 0.8


def tone(rate: int, pitch: float, seconds: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(int(rate * seconds)) / rate
    return (0.3 * torch.sin(2 * torch.pi * pitch * place) + 0.01 * torch.randn(len(place), generator=generator))[None]


@pytest.mark.parametrize("recipe", ["wavtokenizer_tiny", "snac_tiny"])
def test_sounds_of_different_lengths(recipe: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = zoo.build(recipe).eval()
    for name, pitch in (("low", 150.0), ("high", 2500.0)):
        (tmp_path / name).mkdir()
        for number in range(8):
            write_audio(tmp_path / name / f"{number}.wav", tone(16000, pitch, 0.3 + 0.05 * number, number), 16000)
    (tmp_path / "low" / "broken.wav").write_bytes(b"RIFF nothing")
    found = probe(tokenizer, tmp_path, how=Probe(schedule=QUICK, seconds=0.5, neighbours=3))
    assert [(row["kind"], row["features"]) for row in found["results"]] == [
        ("classifier", "tokens"),
        ("linear", "mean"),
        ("knn", "mean"),
    ]
    assert found["results"][1]["accuracy"] == 1 and [item["name"] for item in found["failed"]] == ["low/broken.wav"]


def test_shapes(tmp_path: Path, mesh: Callable[[Path, tuple[float, float, float]], None]) -> None:
    torch.manual_seed(0)
    tokenizer = zoo.build("vecset_fsq_tiny").eval()
    generator = np.random.default_rng(0)
    for name, sides in (("cube", (1.0, 1.0, 1.0)), ("stick", (1.0, 0.1, 0.1))):
        (tmp_path / name).mkdir()
        for number in range(5):
            scale = 1 + 0.05 * generator.standard_normal(3)
            mesh(tmp_path / name / f"{number}.ply", tuple(scale * sides))  # type: ignore[arg-type]
    found = probe(tokenizer, tmp_path, how=Probe(("linear",)))
    assert found["results"][0]["accuracy"] == 1 and found["protocol"]["view"]["points"] == tokenizer.spec.input_shape[0]


@pytest.fixture
def mesh() -> Callable[[Path, tuple[float, float, float]], None]:
    trimesh = pytest.importorskip("trimesh")

    def write(path: Path, sides: tuple[float, float, float]) -> None:
        trimesh.creation.box(sides).export(path)

    return write
