"""`zoo tokenize`, `zoo detokenize` and `zoo reconstruct` on real pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import Result

import zoo
from zoo.cli import jobs
from zoo.cli.inputs import Item, find_items, output_paths
from zoo.data.images import fit, read_image
from zoo.tokenizer import Tokenizer

Cli = Callable[..., Result]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_there_and_back(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    made = cli("tokenize", photos, "-m", flexible, "-o", tmp_path / "tokens")
    assert made.exit_code == 0, made.output
    assert "3 done" in made.stderr
    expected = ["chelsea.safetensors", "rocket.safetensors", "sub/cat.safetensors"]
    assert names(tmp_path / "tokens") == expected

    tokens = zoo.Tokens.load(tmp_path / "tokens" / "chelsea.safetensors")
    image, record = fit(read_image(photos / "chelsea.jpg"), 32)
    tokenizer = zoo.load(flexible)
    with torch.no_grad():
        assert tokens.equal(tokenizer.encode(image[None]))
        wanted = record.unfit(tokenizer.decode(tokens)[0])

    back = cli("detokenize", tmp_path / "tokens", "-o", tmp_path / "back")
    assert back.exit_code == 0, back.output
    assert names(tmp_path / "back") == ["chelsea.png", "rocket.png", "sub/cat.png"]
    restored = read_image(tmp_path / "back" / "chelsea.png")
    assert restored.shape == wanted.shape == (3, 170, 170)
    assert (restored - wanted.clamp(-1, 1)).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("mode", ["pad", "stretch"])
def test_detokenize_restores_the_size(cli: Cli, flexible: str, photos: Path, tmp_path: Path, mode: str) -> None:
    file = tmp_path / "one.safetensors"
    assert cli("tokenize", photos / "chelsea.jpg", "-m", flexible, "-o", file, "--fit", mode).exit_code == 0
    assert cli("detokenize", file, "-o", tmp_path / "one.jpg").exit_code == 0
    with Image.open(tmp_path / "one.jpg") as image:
        assert image.size == (256, 170)


def test_any_size_needs_no_fit(cli: Cli, grid: str, photos: Path, tmp_path: Path) -> None:
    assert cli("tokenize", photos, "-m", grid, "-o", tmp_path / "t").exit_code == 0
    tokens = zoo.Tokens.load(tmp_path / "t" / "rocket.safetensors")
    assert tokens.size is not None and tokens.size.tolist() == [[214, 320]] and tokens.num_tokens == 27 * 40
    assert cli("detokenize", tmp_path / "t", "-o", tmp_path / "b", "--format", "webp").exit_code == 0
    with Image.open(tmp_path / "b" / "rocket.webp") as image:
        assert image.size == (320, 214)
    small = cli("tokenize", photos / "rocket.webp", "-m", grid, "-o", tmp_path / "s.safetensors", "--max-side", "80")
    assert small.exit_code == 0
    tokens = zoo.Tokens.load(tmp_path / "s.safetensors")
    assert tokens.size is not None and tokens.size.tolist() == [[54, 80]]
    assert cli("detokenize", tmp_path / "s.safetensors", "-o", tmp_path / "s.png").exit_code == 0
    with Image.open(tmp_path / "s.png") as image:
        assert image.size == (320, 214)


def test_bad_items_are_recorded_and_the_job_goes_on(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    (photos / "empty.png").touch()
    (photos / "broken.jpg").write_bytes((photos / "chelsea.jpg").read_bytes()[:3000])
    out = tmp_path / "tokens"
    made = cli("tokenize", photos, tmp_path / "none.png", "-m", flexible, "-o", out)
    assert made.exit_code == 1
    assert "3 done" in made.stderr and "3 failed" in made.stderr and "errors.jsonl" in made.stderr
    records = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert {Path(record["input"]).name for record in records} == {"empty.png", "broken.jpg", "none.png"}
    assert all(record["error"] in ("ValueError", "FileNotFoundError") and record["message"] for record in records)

    (photos / "empty.png").unlink()
    (photos / "broken.jpg").unlink()
    again = cli("tokenize", photos, "-m", flexible, "-o", out)
    assert again.exit_code == 0 and "0 done, 3 skipped" in again.stderr and not (out / "errors.jsonl").exists()


def test_existing_outputs_are_kept_unless_told(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("mine")
    command = ("tokenize", photos / "chelsea.jpg", "-m", flexible, "-o", tmp_path / "a.safetensors")
    assert cli(*command).exit_code == 0 and (tmp_path / "a.safetensors").read_text() == "mine"
    assert cli(*command, "--overwrite").exit_code == 0 and zoo.Tokens.load(tmp_path / "a.safetensors")


def test_globs_and_batches_give_the_same(cli: Cli, grid: str, photos: Path, tmp_path: Path) -> None:
    for copy in range(4):
        (photos / f"copy{copy}.png").write_bytes((photos / "sub" / "cat.png").read_bytes())
    expected = ["cat.safetensors", *(f"copy{copy}.safetensors" for copy in range(4))]
    assert cli("tokenize", f"{photos}/**/*.png", "-m", grid, "-o", tmp_path / "three", "-b", "3").exit_code == 0
    assert cli("tokenize", f"{photos}/**/*.png", "-m", grid, "-o", tmp_path / "one", "-b", "1").exit_code == 0
    assert names(tmp_path / "three") == names(tmp_path / "one") == expected
    for name in names(tmp_path / "one"):
        assert zoo.Tokens.load(tmp_path / "three" / name).equal(zoo.Tokens.load(tmp_path / "one" / name))


def test_a_failing_batch_is_tried_item_by_item(
    cli: Cli, flexible: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Tokenizer.encode

    def one_at_a_time(self: Tokenizer, x: torch.Tensor) -> zoo.Tokens:
        if len(x) > 1:
            raise RuntimeError("out of memory")
        return encode(self, x)

    monkeypatch.setattr(Tokenizer, "encode", one_at_a_time)
    made = cli("tokenize", photos, "-m", flexible, "-o", tmp_path / "t")
    assert made.exit_code == 0 and "3 done" in made.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(cli: Cli, flexible: str, photos: Path, tmp_path: Path, dtype: str) -> None:
    made = cli("reconstruct", photos, "-m", flexible, "-o", tmp_path / "r", "--dtype", dtype)
    assert made.exit_code == 0, made.output
    assert len(names(tmp_path / "r")) == 3


def test_reconstruct_shows_prefixes(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    made = cli(
        "reconstruct", photos / "chelsea.jpg", "-m", flexible, "--tokens", "2,8", "-o", tmp_path / "out", "--json"
    )
    assert made.exit_code == 0, made.output
    records = [json.loads(line) for line in made.stdout.splitlines()]
    assert [(record["tokens"], record["bits"]) for record in records] == [(2, 19.93), (8, 79.73)]
    assert all(record["bits_per_pixel"] == pytest.approx(record["bits"] / 1024, abs=1e-4) for record in records)
    tokenizer = zoo.load(flexible)
    image = fit(read_image(photos / "chelsea.jpg"), 32)[0]
    with torch.no_grad():
        output = tokenizer.decode(tokenizer.encode(image[None]).keep(2))[0].clamp(-1, 1)
    assert records[0]["psnr"] == pytest.approx(float(10 * torch.log10(4 / (output - image).square().mean())), abs=1e-3)
    with Image.open(tmp_path / "out" / "chelsea.png") as sheet:
        assert sheet.width > 3 * 320 and sheet.height > 320


def test_reconstruct_leaves_added_borders_out(cli: Cli, flexible: str, photos: Path, tmp_path: Path) -> None:
    made = cli(
        "reconstruct", photos / "chelsea.jpg", "-m", flexible, "--fit", "pad", "-o", tmp_path / "a.jpg", "--json"
    )
    record = json.loads(made.stdout)
    tokenizer = zoo.load(flexible)
    image, fitted = fit(read_image(photos / "chelsea.jpg"), 32, "pad")
    with torch.no_grad():
        output = tokenizer.decode(tokenizer.encode(image[None]))[0].clamp(-1, 1)
    error = (fitted.trim(output) - fitted.trim(image)).square().mean()
    assert fitted.trim(image).shape[1:] == (21, 32) and (tmp_path / "a.jpg").is_file()
    assert record["psnr"] == pytest.approx(float(10 * torch.log10(4 / error)), abs=1e-3)


def test_reconstruct_prints_a_table(cli: Cli, grid: str, photos: Path, tmp_path: Path) -> None:
    made = cli("reconstruct", photos / "rocket.webp", "-m", grid, "-o", tmp_path / "out")
    assert made.exit_code == 0 and "PSNR dB" in made.stdout and "1,080" in made.stdout


def test_token_files_of_several_items_and_without_a_name(cli: Cli, flexible: str, tmp_path: Path) -> None:
    tokenizer = zoo.load(flexible)
    with torch.no_grad():
        tokenizer.encode(torch.zeros(2, 3, 32, 32)).save(tmp_path / "two.safetensors")
    nameless = cli("detokenize", tmp_path / "two.safetensors", "-o", tmp_path / "out")
    assert nameless.exit_code == 1
    assert "does not name its model; pass -m" in (tmp_path / "out" / "errors.jsonl").read_text()
    assert cli("detokenize", tmp_path / "two.safetensors", "-m", flexible, "-o", tmp_path / "out").exit_code == 0
    assert names(tmp_path / "out") == ["two-0000.png", "two-0001.png"]


def test_foreign_token_files_are_recorded(cli: Cli, flexible: str, grid: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    cli("tokenize", photos / "chelsea.jpg", "-m", grid, "-o", tmp_path / "grid.safetensors")
    made = cli(
        "detokenize", tmp_path / "bad.safetensors", tmp_path / "grid.safetensors", "-m", flexible, "-o", tmp_path / "o"
    )
    text = (tmp_path / "o" / "errors.jsonl").read_text()
    assert made.exit_code == 1 and "is not a token file" in text and "has codebooks" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenize", "PHOTOS", "-m", "no_such_model", "-o", "OUT"], "no model 'no_such_model'"),
        (["tokenize", "PHOTOS", "-m", "FLEX", "-o", "OUT.safetensors"], "cannot go to the one file"),
        (["tokenize", "PHOTOS/*.bmp", "-m", "FLEX", "-o", "OUT"], "no input files"),
        (["tokenize", "PHOTOS", "-m", "FLEX", "-o", "OUT", "--device", "tpu"], "device 'tpu' is not available"),
        (["reconstruct", "PHOTOS", "-m", "FLEX", "-o", "OUT", "--tokens", "4,x"], "--tokens expects numbers"),
        (["reconstruct", "PHOTOS", "-m", "FLEX", "-o", "OUT", "--tokens", "4,9"], "must lie in 1 to 8"),
        (["reconstruct", "PHOTOS", "-m", "GRID", "-o", "OUT", "--tokens", "4"], "needs a model whose prefixes decode"),
        (["reconstruct", "PHOTOS", "-m", "FLEX", "-o", "OUT", "--format", "gif"], "--format is one of png, jpg"),
        (["reconstruct", "PHOTOS/sub", "-m", "FLEX", "-o", "PHOTOS/sub"], "is an input as well as an output"),
        (["detokenize", "PHOTOS", "-o", "OUT"], "no input files"),
    ],
)
def test_usage_errors(
    cli: Cli, flexible: str, grid: str, photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    table = {"PHOTOS": str(photos), "FLEX": flexible, "GRID": grid, "OUT": str(tmp_path / "out")}
    for key, value in table.items():
        arguments = [argument.replace(key, value) for argument in arguments]
    before = names(tmp_path)
    made = cli(*arguments)
    assert made.exit_code == 2 and message in made.stderr.replace("\n", " "), made.output
    assert names(tmp_path) == before


def test_missing_options_are_usage_errors(cli: Cli) -> None:
    assert cli("tokenize").exit_code == 2
    assert cli("reconstruct", "a.png").exit_code == 2
    assert cli("no_such_command").exit_code == 2


def test_outputs_never_collide(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "a/x.jpg", "a/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    items = find_items([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a" / "x.png")], [".png", ".jpg"])
    assert len(items) == 4
    paths = output_paths(items, Path("out"), ".safetensors", single=[".safetensors"])
    assert len(set(paths)) == 4 and Path("out/y.safetensors") in paths and Path("out/x.jpg.safetensors") in paths


def test_waiting_images_are_bounded() -> None:
    sizes = [(number % 7) + 1 for number in range(60)]
    record = fit(torch.zeros(3, 1, 1), 1)[1]
    samples = [
        jobs.Sample(Item(Path(f"{number}"), Path(f"{number}")), Path("x"), torch.zeros(3, size, size), record)
        for number, size in enumerate(sizes)
    ]
    drawn = 0

    def counted() -> object:
        nonlocal drawn
        for sample in samples:
            drawn += 1
            yield sample

    given = 0
    for group in jobs._grouped(counted(), 4):
        given += len(group)
        assert len(group) <= 4 and len({sample.image.shape for sample in group}) == 1
        assert drawn - given <= 16
    assert given == len(samples)
