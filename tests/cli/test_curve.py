"""`zoo curve` on real pictures, and the chart that it draws."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import Result

import zoo
from zoo.data.chart import COLOURS, GREYS, Line, chart
from zoo.data.images import fit, read_image
from zoo.metrics import compress_at, psnr, ssim

Cli = Callable[..., Result]


def points(folder: Path, name: str) -> list[dict]:  # type: ignore[type-arg]
    rows = json.loads((folder / "curve.json").read_text("utf-8"))["points"]
    return [row for row in rows if row["name"] == name]


def test_numbers_are_means_over_the_pictures(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    made = cli("curve", flexible, photos, "-o", tmp_path / "curve.png", "-b", 2)
    assert made.exit_code == 0, made.output
    assert "3 done" in made.stderr and "wrote" in made.stdout
    assert sorted(path.name for path in tmp_path.glob("curve.*")) == ["curve.csv", "curve.json", "curve.png"]
    tokenizer = zoo.load(flexible)
    pictures = [photos / name for name in ("chelsea.jpg", "rocket.webp", "sub/cat.png")]
    images = torch.stack([fit(read_image(path), 32)[0] for path in pictures])
    rows = points(tmp_path, "flexible")
    assert [row["tokens"] for row in rows] == [1, 2, 4, 8] == [row["setting"] for row in rows]
    with torch.no_grad():
        tokens = tokenizer.encode(images)
        for row in rows:
            cut = tokens.keep(row["setting"])
            output = tokenizer.decode(cut)
            assert row["psnr"] == pytest.approx(float(psnr(output, images).mean()), abs=1e-3)
            assert row["ssim"] == pytest.approx(float(ssim(output, images).mean()), abs=1e-4)
            assert row["bits"] == pytest.approx(float(cut.bits().mean()))
            assert row["bits_per_pixel"] == pytest.approx(row["bits"] / 32**2)
            assert row["pictures"] == 3 and row["size"] == [32, 32]
    for kind in ("JPEG", "WebP"):
        for row in points(tmp_path, kind):
            files = [compress_at(image, row["setting"], kind) for image in images]  # type: ignore[arg-type]
            assert row["bits"] == pytest.approx(8 * sum(file.size for file in files) / 3)
            quality = [float(psnr(file.image[None], image[None])) for file, image in zip(files, images, strict=True)]
            assert row["psnr"] == pytest.approx(sum(quality) / 3, abs=1e-3)
    with (tmp_path / "curve.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 + 9 + 9 and table[0]["size"] == "32x32" and float(table[3]["tokens"]) == 8


def test_tokenizers_of_any_size_see_what_the_fixed_one_sees(
    cli: Cli, flexible: str, grid: str, photos: Path, tmp_path: Path
) -> None:
    made = cli("curve", flexible, grid, photos, "--tokens", "2,8,99", "--x", "tokens", "-o", tmp_path / "curve.png")
    assert made.exit_code == 0, made.output
    assert [row["tokens"] for row in points(tmp_path, "flexible")] == [2, 8]
    (only,) = points(tmp_path, "grid")
    assert only["size"] == [32, 32] and only["tokens"] == 16 and only["setting"] is None


def test_pictures_keep_their_size_for_a_tokenizer_of_any_size(
    cli: Cli, grid: str, photos: Path, tmp_path: Path
) -> None:
    made = cli("curve", grid, photos, "--max-side", "48", "--no-baselines", "-o", tmp_path / "curve.png", "--x", "bits")
    assert made.exit_code == 0, made.output
    (only,) = json.loads((tmp_path / "curve.json").read_text("utf-8"))["points"]
    assert only["size"] is None and only["bits"] == pytest.approx(only["tokens"] * math.log2(64000))
    assert only["bits_per_pixel"] != pytest.approx(only["bits"] / 48**2)


def test_a_bad_picture_is_left_out_everywhere(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    made = cli("curve", flexible, photos, "--tokens", "8", "-o", tmp_path / "curve.png")
    assert made.exit_code == 1 and "1 failed" in made.stderr
    assert {row["pictures"] for name in ("flexible", "JPEG", "WebP") for row in points(tmp_path, name)} == {3}
    assert "broken.jpg" in (tmp_path / "errors.jsonl").read_text("utf-8")


def test_pictures_that_fail_together_run_alone(
    cli: Cli, flexible: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.families import OneDPiece

    encode = OneDPiece.encode

    def small(self: OneDPiece, x: torch.Tensor) -> zoo.Tokens:
        if len(x) > 1:
            raise RuntimeError("out of memory")
        return encode(self, x)

    monkeypatch.setattr(OneDPiece, "encode", small)
    assert cli("curve", flexible, photos, "-o", tmp_path / "curve.png", "--limit", 2).exit_code == 0
    assert {row["pictures"] for row in points(tmp_path, "flexible")} == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FLEX", "PHOTOS", "-o", "curve.jpg"], "-o names a .png file"),
        (["FLEX", "PHOTOS", "-o", "curve.png", "--tokens", "1,x"], "--tokens expects numbers"),
        (["FLEX", "PHOTOS", "-o", "curve.png", "--tokens", "0,4"], "at least 1"),
        (["GRID", "PHOTOS", "-o", "curve.png", "--tokens", "4"], "needs a model whose prefixes decode"),
        (["FLEX", "PHOTOS/none", "-o", "curve.png", "--x", "pixels"], "'pixels' is not one of"),
        (["nothing", "PHOTOS", "-o", "curve.png"], "nothing"),
    ],
)
def test_mistakes_are_named(
    cli: Cli, flexible: str, grid: str, photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"FLEX": flexible, "GRID": grid, "PHOTOS": str(photos)}
    words = [names.get(word, word.replace("PHOTOS", str(photos))) for word in arguments]
    words[words.index("-o") + 1] = str(tmp_path / words[words.index("-o") + 1])
    made = cli("curve", *words)
    assert made.exit_code == 2 and message in made.stderr
    assert not list(tmp_path.glob("curve.*"))


def test_continuous_tokenizers_have_tokens_but_no_bits(cli: Cli, photos: Path, tmp_path: Path) -> None:
    size = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "num_tokens": 8}
    continuous = zoo.build(
        {
            "_target_": "zoo.families.TiTok",
            "encoder": {"_target_": "encoders.ViT1D", **size, "dim": 8},
            "quantizer": {"_target_": "quantizers.KL", "dim": 4},
            "decoder": {"_target_": "decoders.ViT1DDecoder", **size, "dim": 4},
        }
    ).save_pretrained(tmp_path / "soft")
    made = cli("curve", continuous, photos, "-o", tmp_path / "curve.png")
    assert made.exit_code == 2 and "use --x tokens" in made.stderr
    made = cli("curve", continuous, photos, "-o", tmp_path / "curve.png", "--x", "tokens")
    assert made.exit_code == 0, made.output
    (only,) = points(tmp_path, "soft")
    assert only["tokens"] == 8 and "bits" not in only


def colours(picture: Image.Image) -> set[str]:
    found = picture.getcolors(maxcolors=1 << 20)
    assert found is not None
    return {f"#{red:02x}{green:02x}{blue:02x}" for _, (red, green, blue) in found}  # type: ignore[misc]


@pytest.mark.parametrize("doubling", [False, True])
def test_chart_draws_every_line_in_its_own_colour(doubling: bool) -> None:
    lines = [
        Line("a", [(1, 10.0), (4, 12.0), (64, 20.0)], labels=["1", "4", "64"]),
        Line("b", [(16, 15.0)]),
        Line("file", [(8, 11.0), (512, 30.0)], reference=True),
    ]
    picture = chart(lines, "tokens", "PSNR, dB", "3 pictures", doubling=doubling)
    assert picture.mode == "RGB" and picture.width <= 1600
    assert {COLOURS[0], COLOURS[1], GREYS[0]} <= colours(picture) and COLOURS[2] not in colours(picture)


@pytest.mark.parametrize(
    "places", [[(5.0, 1.0)], [(1700.0, 1.0), (1702.0, 1.0)], [(1e-4, -3.0), (1e4, 1e3)], [(3.0, 0.0), (3.0, 0.0)]]
)
def test_chart_takes_any_range(places: list[tuple[float, float]]) -> None:
    for doubling in (False, True):
        assert COLOURS[0] in colours(chart([Line("a", places)], "x", "y", doubling=doubling))


def test_chart_needs_points() -> None:
    with pytest.raises(ValueError, match="needs points"):
        chart([Line("a", [])], "x", "y")
    with pytest.raises(ValueError, match="above 0"):
        chart([Line("a", [(0.0, 1.0)])], "x", "y")
