"""`--steps`, `--guidance` and `--seed` reach decoders that paint in steps, and are refused where none does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

import zoo
from zoo.data.images import read_image

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    tokenizer = zoo.build("flextok_tiny")
    return str(tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "painter"))


def pictures(cli: Cli, tokens: Path, folder: Path, *options: object) -> torch.Tensor:
    made = cli("detokenize", tokens, "-o", folder / "out.png", "--overwrite", *options)
    assert made.exit_code == 0, made.output
    return read_image(folder / "out.png")


def test_options_reach_the_decoder(cli: Cli, painter: str, photos: Path, tmp_path: Path) -> None:
    code = tmp_path / "code.safetensors"
    assert cli("tokenize", photos / "sub/cat.png", "-m", painter, "-o", code).exit_code == 0
    usual = pictures(cli, code, tmp_path)
    assert torch.equal(usual, pictures(cli, code, tmp_path, "--steps", 8))
    tokenizer = zoo.load(painter)
    with torch.no_grad():
        want = tokenizer.decode(zoo.Tokens.load(code), steps=2, guidance=1.5)[0].clamp(-1, 1)
    got = pictures(cli, code, tmp_path, "--steps", 2, "--guidance", 1.5)
    assert (got - want).abs().max() < 0.01
    drawn = [pictures(cli, code, tmp_path, "--seed", seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], usual)


def test_steps_are_measured(cli: Cli, painter: str, flexible: str, photos: Path, tmp_path: Path) -> None:
    def psnr(*options: object) -> float:
        picture = photos / "chelsea.jpg"
        made = cli("reconstruct", picture, "-m", painter, "-o", tmp_path, "--overwrite", "--json", *options)
        assert made.exit_code == 0, made.output
        return float(json.loads(made.stdout)["psnr"])

    assert psnr() == psnr("--steps", 8) != psnr("--steps", 1)
    options = ("--steps", 1, "--tokens", 4, "--no-baselines", "-o", tmp_path / "c.png")
    mixed = cli("curve", painter, flexible, photos / "chelsea.jpg", *options)
    assert mixed.exit_code == 0, mixed.output


@pytest.mark.parametrize("option", ["--steps", "--guidance"])
def test_one_step_decoders_refuse(cli: Cli, flexible: str, photos: Path, tmp_path: Path, option: str) -> None:
    made = cli("reconstruct", photos, "-m", flexible, "-o", tmp_path / "out", option, "2")
    assert made.exit_code == 2
    assert f"{option} is for decoders that paint in steps" in made.output
