"""`--text` of `zoo tokenize`, `detokenize` and `reconstruct`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

import zoo
from zoo.data.images import fit, read_image

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    tokenizer = zoo.build("textok_tiny")
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return str(tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "reader"))


def test_a_caption_is_told_and_remembered(cli: Cli, reader: str, photos: Path, tmp_path: Path) -> None:
    photo, file, text = photos / "chelsea.jpg", tmp_path / "one.safetensors", "a cat"
    made = cli("tokenize", photo, "-m", reader, "-o", file, "--text", text)
    assert made.exit_code == 0, made.output
    image, record = fit(read_image(photo), 64)
    tokenizer, tokens = zoo.load(reader), zoo.Tokens.load(file)
    with torch.no_grad():
        assert tokens.equal(tokenizer.encode(image[None], text)) and not tokens.equal(tokenizer.encode(image[None]))
        wanted = record.unfit(tokenizer.decode(tokens, text=text)[0]).clamp(-1, 1)
        other = record.unfit(tokenizer.decode(tokens, text="a rocket")[0]).clamp(-1, 1)
    assert zoo.Tokens.read_metadata(file)["text"] == text
    assert cli("detokenize", file, "-o", tmp_path / "same.png").exit_code == 0
    assert cli("detokenize", file, "-o", tmp_path / "other.png", "--text", "a rocket").exit_code == 0
    assert (read_image(tmp_path / "same.png") - wanted).abs().max() <= 1.01 / 255
    assert (read_image(tmp_path / "other.png") - other).abs().max() <= 1.01 / 255
    assert (wanted - other).abs().max() > 2 / 255


def test_reconstruct_takes_a_caption(cli: Cli, reader: str, flexible: str, photos: Path, tmp_path: Path) -> None:
    made = cli("reconstruct", photos, "-m", reader, "-o", tmp_path / "r", "--text", "a picture")
    assert made.exit_code == 0, made.output
    assert cli("reconstruct", photos, "-m", reader, "-o", tmp_path / "plain").exit_code == 0
    for command, arguments in (("reconstruct", ["-o", tmp_path / "x"]), ("tokenize", ["-o", tmp_path / "t"])):
        refused = cli(command, photos, "-m", flexible, "--text", "a cat", *arguments)
        assert refused.exit_code == 2 and "OneDPiece reads none" in refused.output
    both = cli("reconstruct", photos, "-m", flexible, "-o", tmp_path / "y", "--text", "a cat", "--target", "psnr=20")
    assert both.exit_code == 2 and "without a caption" in both.output
