"""`zoo evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from zoo.cli import app
from zoo.evaluation import list_protocols, read_results
from zoo.evaluation.measures import MEASURES


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "120"})


def test_several_tokenizers_and_lengths(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run(
        "fsq_f8_tiny", "onedpiece_tiny_128", "--data", photos, "--tokens", "8,128", "--metrics", "psnr,codes",
        "--limit", 3, "-o", output, "--device", "cpu", "--samples", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "plain@128" in result.stdout and "PSNR, dB" in result.stdout and "8 tokens" in result.stdout
    runs = read_results(output).runs
    assert [run.model for run in runs] == ["fsq_f8_tiny", "onedpiece_tiny_128"]
    assert [(setting.tokens, len(setting.samples)) for setting in runs[1].settings] == [(8, 1), (128, 1)]
    assert {path.name for path in output.iterdir() if path.is_file()} == {"results.json", "report.html", "report.md"}


def test_a_failed_item_is_exit_code_one(photos: Path, tmp_path: Path) -> None:
    (photos / "a.png").write_bytes(b"no")
    result = run("fsq_f8_tiny", "-d", photos, "--metrics", "psnr", "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 1 and "1 failed" in result.output
    record = json.loads((tmp_path / "out/errors.jsonl").read_text("utf-8"))
    assert record["input"] == "a.png" and "not an image" in record["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected names of tokenizers, --data and -o"),
        (["fsq_f8_tiny", "-d", "PHOTOS"], "expected names of tokenizers, --data and -o"),
        (["fsq_f8_tin", "-d", "PHOTOS", "-o", "OUT"], "closest: fsq_f8_tiny"),
        (["fsq_f8_tiny", "-d", "PHOTOS/none", "-o", "OUT"], "does not exist; give a folder of images"),
        (["fsq_f8_tiny", "-d", "PHOTOS", "-o", "OUT", "-p", "titk"], "closest: titok"),
        (["fsq_f8_tiny", "-d", "PHOTOS", "-o", "OUT", "--metrics", "psrn"], "closest: psnr"),
        (["fsq_f8_tiny", "-d", "PHOTOS", "-o", "OUT", "--tokens", "4"], "prefixes decode"),
        (["fsq_f8_tiny", "-d", "PHOTOS", "-o", "OUT", "--codebooks", "x"], "--codebooks expects numbers"),
        (["fsq_f8_tiny", "-d", "PHOTOS", "-o", "OUT", "--weights", "inception"], "NAME=FILE"),
        (["onedpiece_tiny_128", "-d", "PHOTOS", "-o", "OUT", "-p", "titok"], "--size 128"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(
    photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"PHOTOS": str(photos), "OUT": str(tmp_path / "out")}
    filled = [
        word.replace("PHOTOS", places["PHOTOS"]) if "PHOTOS" in word else places.get(word, word) for word in arguments
    ]
    result = run(*filled)
    assert result.exit_code == 2 and message in result.output, result.output
    assert "Traceback" not in result.output


def test_lists() -> None:
    protocols, metrics = run("--list-protocols"), run("--list-metrics")
    assert protocols.exit_code == metrics.exit_code == 0
    for name in list_protocols():
        assert name in protocols.stdout
    for name in MEASURES:
        assert name in metrics.stdout
    assert "2406.07550" in protocols.stdout and "[metrics]" in metrics.stdout


def test_interrupted(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo.evaluation.engine

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo.evaluation.engine, "_run_all", stopped)
    result = run("fsq_f8_tiny", "-d", photos, "-o", tmp_path)
    assert result.exit_code == 2 and "the same command goes on from there" in result.output


@pytest.mark.slow
def test_processes(photos: Path, tmp_path: Path) -> None:
    result = run("fsq_f8_tiny", "-d", photos, "-o", tmp_path, "--metrics", "psnr", "--processes", 2, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert read_results(tmp_path).runs[0].origin.settings["processes"] == 2
