"""`zoo generate`: grids, sounds, shapes and tokens from generators of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zoo
from zoo.cli import app
from zoo.generators import GPT, Depth, Levels, Stream, Vocabulary
from zoo.generators.pipeline import Pipeline, build, load


def saved(folder: Path, recipe: str, head: dict[str, Any], **options: Any) -> Path:
    """A generator of random weights for the codes of a tokenizer of random weights."""
    torch.manual_seed(0)
    tokenizer = zoo.build(recipe)
    tokenizer.save_pretrained(folder / "tokenizer")
    vocabulary = Vocabulary.of(tokenizer.spec, **options)
    plain = {name: getattr(vocabulary, name) for name in vocabulary.__dataclass_fields__}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
    node = {"_target_": "zoo.generators.GPT", "vocabulary": {"_target_": "zoo.generators.Vocabulary", **plain}}
    generator = build({**node, "head": head, "classes": 2, "width": 32, "depth": 1, "heads": 2})
    generator.tokenizer, generator.labels = str(folder / "tokenizer"), ("cat", "dog")
    return generator.save_pretrained(folder / "generator")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["generate", *map(str, arguments), "--device", "cpu"])


def test_a_grid_of_pictures(tmp_path: Path) -> None:
    folder = saved(tmp_path, "titok_tiny", {"_target_": "zoo.generators.Stream"})
    side = zoo.build("titok_tiny", device="meta").spec.input_shape[-1]
    first = run(folder, "-n", 5, "-o", tmp_path / "grid.png", "-b", 2, "--guidance", 2, "--json")
    assert first.exit_code == 0, first.output
    facts = json.loads(first.stdout)
    assert facts["items"] == 5 and facts["files"] == [str(tmp_path / "grid.png")]
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (3 * (side + 2) + 2, 2 * (side + 2) + 2)
    for name, seed, label in (("again", 0, "cat"), ("same", 0, "0"), ("other", 1, "cat")):
        done = run(folder, "-n", 2, "-o", tmp_path / f"{name}.safetensors", "--seed", seed, "-c", label, "--top-k", 20)
        assert done.exit_code == 0, done.output
    again, same, other = (zoo.Tokens.load(tmp_path / f"{name}.safetensors") for name in ("again", "same", "other"))
    assert again.equal(same) and not again.equal(other)
    assert zoo.Tokens.read_metadata(tmp_path / "same.safetensors")["model"] == str(tmp_path / "tokenizer")


def test_sounds(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    import soundfile

    spec = zoo.build("dac_tiny", device="meta").spec
    assert spec.downsample is not None
    size = (8 * spec.downsample,)
    head = {"_target_": "zoo.generators.Depth", "depth": 1, "heads": 2}
    folder = saved(tmp_path, "dac_tiny", head, num_tokens=8, size=size)
    done = run(folder, "-n", 2, "-o", tmp_path / "sound.wav", "--temperature", 0.5)
    assert done.exit_code == 0, done.output
    for number in range(2):
        assert soundfile.info(tmp_path / f"sound-{number}.wav").frames == size[0]


def test_shapes(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("trimesh")
    quantizer = zoo.build("vat_tiny", device="meta").config["quantizer"]
    folder = saved(tmp_path, "vat_tiny", {"_target_": "zoo.generators.Levels", "quantizer": quantizer})
    done = run(folder, "-n", 1, "-o", tmp_path / "shape.glb", "--resolution", 16)
    assert done.exit_code == 0 or "nothing" in done.output or "surface" in done.output, done.output


def test_mistakes_are_told(tmp_path: Path) -> None:
    folder = saved(tmp_path, "titok_tiny", {"_target_": "zoo.generators.Stream"})
    for arguments, message in (
        ((folder, "-o", "a.wav"), "ends with"),
        ((folder, "-o", "a.png", "--class", "bird"), "class 'bird' is none of"),
        ((folder, "-o", "a.png", "--class", "2"), "class '2' is none of"),
        ((folder, "-o", "a.png", "--steps", "4"), "leave steps=4 out"),
        (("no_such_thing", "-o", "a.png"), "no generator"),
        ((tmp_path / "tokenizer", "-o", "a.png"), "generator"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2 and message in done.output, done.output


def test_saved_and_loaded_are_equal(tmp_path: Path) -> None:
    folder = saved(tmp_path, "titok_tiny", {"_target_": "zoo.generators.Depth", "depth": 1, "heads": 2})
    generator = load(folder)
    assert isinstance(generator, GPT) and isinstance(generator.head, Depth) and not generator.training
    drawn = [load(folder).generate(torch.tensor([0, 1]), generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    with pytest.raises(ValueError, match="put together by hand"):
        GPT(Vocabulary([4], 3), Stream(), width=16, depth=1, heads=2).save_pretrained(tmp_path / "x")
    assert Levels([1, 2]).sizes == (1, 2)


def test_a_tokenizer_of_other_codes_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "titok_tiny", {"_target_": "zoo.generators.Stream"})
    zoo.build("vat_tiny").save_pretrained(tmp_path / "vat")
    with pytest.raises(ValueError, match="speaks codebooks"):
        Pipeline.load(folder, tokenizer=tmp_path / "vat")


def test_listings_keep_kinds_apart() -> None:
    assert "gpt_tiny" not in zoo.list_recipes() and "gpt_tiny" in zoo.list_recipes(kind="generator")
    assert not set(zoo.list_models()) & set(zoo.list_models(kind="generator"))
