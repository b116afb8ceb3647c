"""`zoo reconstruct --target`: each picture gets the length that a goal asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import Result

import zoo
from zoo.data.images import fit, read_image
from zoo.metrics import psnr

Cli = Callable[..., Result]


def records(made: Result) -> dict[str, dict]:  # type: ignore[type-arg]
    assert made.exit_code == 0, made.output
    return {Path(row["input"]).name: row for row in map(json.loads, made.stdout.splitlines())}


def best(flexible: str, picture: Path, goal: float, mode: str) -> tuple[int, bool]:
    """The shortest prefix that reaches a PSNR, by trying all of them; the whole code if none does."""
    tokenizer = zoo.load(flexible)
    image, record = fit(read_image(picture), 32, mode)  # type: ignore[arg-type]
    with torch.no_grad():
        tokens = tokenizer.encode(image[None])
        for count in range(1, 9):
            output = tokenizer.decode(tokens.keep(count))[0]
            if psnr(record.trim(output)[None], record.trim(image)[None]) >= goal:
                return count, True
    return 8, False


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_quality_is_reached_or_said_to_be_missed(
    cli: Cli, flexible: str, photos: Path, tmp_path: Path, mode: str
) -> None:
    whole = records(cli("reconstruct", photos, "-m", flexible, "--fit", mode, "-o", tmp_path / "a", "--json"))
    goal = sorted(row["psnr"] for row in whole.values())[1] + 0.01  # two pictures miss it at full length
    made = cli(
        "reconstruct", photos, "-m", flexible, "--fit", mode, "--target", f"psnr={goal}", "-o", tmp_path / "b", "--json"
    )
    rows = records(made)
    assert len(rows) == 3 and any(row["reached"] for row in rows.values())
    for row in rows.values():
        assert row["target"] == f"psnr={goal:g}"
        assert row["reached"] == (row["psnr"] >= goal - 1e-4)
        assert row["bits"] == pytest.approx(row["tokens"] * math.log2(1000), abs=0.01)
        count, reached = best(flexible, Path(row["input"]), goal, mode)
        assert row["reached"] or not reached
        assert row["tokens"] >= count and (row["reached"] or row["tokens"] == 8)
    with Image.open(tmp_path / "b/chelsea.png") as sheet:
        assert sheet.width > 640


def test_budgets(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    each = math.log2(1000)
    made = cli("reconstruct", photos, "-m", flexible, "--target", f"bits={3.5 * each}", "-o", tmp_path / "a", "--json")
    assert [row["tokens"] for row in records(made).values()] == [3, 3, 3]
    # A picture of 3:2 fills 32 x 21 pixels of a padded square: the budget counts those.
    made = cli(
        "reconstruct", photos / "chelsea.jpg", "-m", flexible, "--fit", "pad", "--target", "bpp=0.1", "-o",
        tmp_path / "b", "--json",
    )  # fmt: skip
    (row,) = records(made).values()
    assert row["tokens"] == math.floor(0.1 * 32 * 21 / each) and row["bits_per_pixel"] <= 0.1
    made = cli("reconstruct", photos, "-m", flexible, "--target", "bits=1", "-o", tmp_path / "c")
    assert made.exit_code == 0 and made.stdout.count("missed") == 3


def test_similarity_is_reported(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    made = cli("reconstruct", photos, "-m", flexible, "--target", "ssim=0.0", "-o", tmp_path / "a", "--json")
    assert all(row["reached"] == (row["ssim"] >= 0) for row in records(made).values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "FLEX", "--target", "psnr"], "--target expects psnr=24"),
        (["-m", "FLEX", "--target", "psnr=high"], "--target expects psnr=24"),
        (["-m", "FLEX", "--target", "fid=3"], "--target knows psnr, ssim, lpips, bits, bpp"),
        (["-m", "FLEX", "--target", "psnr=20", "--tokens", "4"], "give one of the two"),
        (["-m", "GRID", "--target", "psnr=20"], "needs a model whose prefixes decode"),
    ],
)
def test_mistakes_are_named(
    cli: Cli, flexible: str, grid: str, photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"FLEX": flexible, "GRID": grid}
    made = cli("reconstruct", photos, "-o", tmp_path / "x", *(names.get(word, word) for word in arguments))
    assert made.exit_code == 2 and message in made.stderr


def test_lpips_without_weights_is_one_error(
    cli: Cli, flexible: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    for command in (
        ["reconstruct", photos, "-m", flexible, "--target", "lpips=0.3", "-o", tmp_path / "x"],
        ["curve", flexible, photos, "--metric", "lpips", "-o", tmp_path / "x.png"],
    ):
        made = cli(*command)
        assert made.exit_code == 2 and "measure psnr or ssim" in made.stderr
