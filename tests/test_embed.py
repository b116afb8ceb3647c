"""From a model folder to an embedded model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file

import zoo
from scripts import embed
from zoo.store.cards import Card, card
from zoo.store.verify import verify_answer
from zoo.store.weights import load_strict

NAME = "onedpiece_tiny"
FACTS = {"title": "A model", "data": "photographs", "data_license": "CC0", "hardware": "1 CPU", "wall_clock": "1 s"}
NOTHING = dict.fromkeys(
    (
        "measure",
        "metrics",
        "title",
        "notes",
        "paper",
        "data",
        "data_license",
        "command",
        "seed",
        "hardware",
        "wall_clock",
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return zoo.build(NAME).save_pretrained(tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    return tmp_path / "cards"


@pytest.fixture
def put(cards: Path, tmp_path: Path) -> Callable[..., Card]:
    """What the command does, and the card it leaves."""
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copyfile(Path(__file__).parent / "assets/cat_64.png", photos / "cat.png")

    def call(folder: Path, **given: Any) -> Card:
        embed.main(folder=folder, name=NAME, photos=photos, speech=photos, cards=cards, **NOTHING | given)
        copy = tmp_path / f"copy_{len(list(tmp_path.iterdir()))}"  # a file that was read once is not read again
        copy.mkdir()
        shutil.copyfile(cards / f"{NAME}.yaml", copy / f"{NAME}.yaml")
        return card(NAME, copy)

    return call


def numbers(digest: str, fits: float = 1.0) -> dict[str, Any]:
    """What the benchmark writes, with few numbers."""
    protocol = {"set": "lomiri", "data": "photographs", "crop": "1/4 size", "images": 1, "origin": "measured: here"}
    rows = [
        ("PSNR", 20.123456, "tokens", 1),
        ("bytes", 16, "tokens", 1),
        ("PSNR", 19.0, "JPEG", 1),
        ("PSNR", 30.0, "tokens", 100),
        ("PSNR", 31.0, "tokens", 128),
        ("codebook usage", 0.5, "tokens", 1),
        ("codebook usage", 0.7, "tokens", 128),
        ("PSNR", 33.0, "JPEG", 128),
        ("bits per pixel", 0.25, "JPEG", 128),
    ]
    rows += [("within budget", fits if codec == "JPEG" else 1.0, codec, count) for _, _, codec, count in rows]
    listed = [{"name": n, "value": v, "unit": "", "codec": c, "tokens": t, **protocol} for n, v, c, t in rows]
    return {"model": NAME, "sha256": digest, "setting": {}, "numbers": listed}


def test_weights_and_card(folder: Path, cards: Path, put: Callable[..., Card]) -> None:
    item = put(folder, **FACTS, seed=7, paper="arXiv 2501.10064", notes="Small.")
    file = cards / "weights" / f"{NAME}.safetensors"
    assert item.weights.embedded and item.weights.license == "apache-2.0" and item.recipe == NAME
    assert item.weights.sha256 == sha256(file.read_bytes()).hexdigest()
    assert f'sha256: "{item.weights.sha256}"' in (cards / f"{NAME}.yaml").read_text()
    assert item.training["licence of the data"] == "CC0" and item.training["seed"] == 7
    assert item.training["command"] == f"zoo train {NAME} data.root=data/open_photos/train"
    model = zoo.load(folder)
    assert item.params == sum(parameter.numel() for parameter in model.parameters())
    assert item.family == type(model).__name__
    state = load_file(file)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
    rebuilt = zoo.build(NAME)
    load_strict(rebuilt, state, source=NAME)
    for key, value in rebuilt.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-6)
    (answer,) = item.known_answers
    assert answer.tolerance == 2 and answer.count == len(answer.tokens) and verify_answer(rebuilt.eval(), answer).passed


def test_repeating_with_less_keeps_the_rest(folder: Path, tmp_path: Path, put: Callable[..., Card]) -> None:
    first = put(folder, **FACTS, notes="Small.")
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps(numbers(str(first.weights.sha256))))
    second = put(folder, metrics=file, wall_clock="2 s")
    assert second.title == first.title and second.notes == first.notes
    assert second.training == first.training | {"wall-clock": "2 s"}
    third = put(folder)
    assert third.metrics == second.metrics != ()


@pytest.mark.parametrize(
    ("fits", "size"), [(1.0, "same bytes"), (0.0, "smallest file"), (0.5, "same bytes or smallest file")]
)
def test_numbers_on_the_card(tmp_path: Path, fits: float, size: str) -> None:
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps(numbers("0" * 64, fits)))
    protocol = {"data": "photographs", "crop": "1/4 size", "origin": "measured: here"}
    assert embed.measured(file, "0" * 64) == [
        {"name": "PSNR, 128 tokens", "value": 31.0, **protocol},
        {"name": "codebook usage, 128 tokens", "value": 0.7, **protocol},
        {"name": f"PSNR, JPEG ({size})", "value": 33.0, **protocol},
        {"name": f"bits per pixel, JPEG ({size})", "value": 0.25, **protocol},
        {"name": "PSNR, 1 token", "value": 20.12, **protocol},
    ]


def test_numbers_without_a_budget(tmp_path: Path) -> None:
    """Sounds: another codec stands beside the tokens with its own bitrate."""
    file, document = tmp_path / "numbers.json", numbers("0" * 64)
    rows = [("STOI", 0.8, "tokens"), ("kbit/s", 1.0, "tokens"), ("STOI", 0.9, "Opus 6 kbit/s")]
    protocol = {"set": "fr", "data": "clips", "crop": "all", "origin": "measured: here", "tokens": None}
    document["numbers"] = [{"name": name, "value": value, "codec": codec, **protocol} for name, value, codec in rows]
    file.write_text(json.dumps(document))
    names = [row["name"] for row in embed.measured(file, "0" * 64)]
    assert names == ["STOI", "kbit/s", "STOI, Opus 6 kbit/s"]


def test_sound(tmp_path: Path, cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change by half precision is heard on sample speech, and a command of the training has both folders."""
    speech = tmp_path / "speech"
    speech.mkdir()
    shutil.copyfile(Path(__file__).parent / "assets/speech.flac", speech / "speech.flac")
    torch.manual_seed(0)
    model = zoo.build("vocos_tiny")
    folder = model.save_pretrained(tmp_path / "vocos_tiny")
    options = {"folder": folder, "name": "vocos_tiny", "speech": speech, "photos": tmp_path, "cards": cards}
    embed.main(**options, **NOTHING | FACTS)  # type: ignore[arg-type]
    text = (cards / "vocos_tiny.yaml").read_text()
    assert "data.val_root=data/open_speech/val" in text and "modality: audio" in text
    monkeypatch.setattr(embed, "MAX_MEL_CHANGE", 0.0)
    with pytest.raises(typer.BadParameter, match="moves the log-mel distance"):
        embed.main(**options, **NOTHING | FACTS)  # type: ignore[arg-type]


def test_numbers_of_other_weights_are_refused(folder: Path, tmp_path: Path, put: Callable[..., Card]) -> None:
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps(numbers("0" * 64)))
    with pytest.raises(typer.BadParameter, match="measure again"):
        put(folder, metrics=file, **FACTS)


@pytest.mark.parametrize(
    ("name", "value", "message"), [("MAX_BYTES", 10, "at most 10 are embedded"), ("MAX_CHANGE", 0, "moves PSNR")]
)
def test_limits(
    folder: Path,
    cards: Path,
    put: Callable[..., Card],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: int,
    message: str,
) -> None:
    monkeypatch.setattr(embed, name, value)
    with pytest.raises(typer.BadParameter, match=message):
        put(folder, **FACTS)
    assert not cards.exists()


def test_facts_are_asked_for(folder: Path, cards: Path, put: Callable[..., Card]) -> None:
    with pytest.raises(typer.BadParameter, match="needs data, licence of the data, wall-clock, title"):
        put(folder, hardware="1 CPU")
    assert not cards.exists()


def test_model_of_another_recipe_is_refused(tmp_path: Path, put: Callable[..., Card]) -> None:
    config = zoo.build(NAME).config
    other = {**config, "quantizer": {"_target_": "quantizers.FSQ", "levels": [2] * zoo.build(NAME).quantizer.dim}}
    folder = zoo.build(other).save_pretrained(tmp_path / "other")
    with pytest.raises(typer.BadParameter, match=r"tokenizer\.quantizer\.\w+ is"):
        put(folder, **FACTS)


def test_values_beyond_half_precision_are_refused(tmp_path: Path, put: Callable[..., Card]) -> None:
    model = zoo.build(NAME)
    with torch.no_grad():
        next(model.parameters()).flatten()[0] = 1e6
    with pytest.raises(typer.BadParameter, match="beyond float16 in "):
        put(model.save_pretrained(tmp_path / "model"), **FACTS)


def test_card_of_a_shape_model(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    torch.manual_seed(0)
    folder = zoo.build("vat_tiny").save_pretrained(tmp_path / "model")
    embed.main(folder=folder, name="vat_tiny", cards=tmp_path, **NOTHING | FACTS)
    item = card("vat_tiny", tmp_path)
    (answer,) = item.known_answers
    assert item.modality == "shape" and answer.input == {"kind": "ellipsoid", "radii": [0.9, 0.6, 0.3]}
    rounded = zoo.build("vat_tiny").eval()
    load_strict(rounded, load_file(tmp_path / "weights/vat_tiny.safetensors"), source="a test")
    assert verify_answer(rounded, answer).passed and answer.count == 127
    with pytest.raises(ValueError, match="an ellipsoid is an input for shapes"):
        verify_answer(zoo.build(NAME).eval(), answer)
