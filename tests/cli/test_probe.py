"""`zoo probe`: a table, a file with everything in it, failures on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

Cli = Callable[..., Result]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    root = tmp_path / "classes"
    for number, colour in enumerate(("red", "lime", "blue")):
        (root / colour).mkdir(parents=True)
        for item in range(6):
            Image.new("RGB", (40 + item, 40), colour).save(root / colour / f"{number}{item}.png")
    return root


def test_probe(cli: Cli, grid: str, classes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "probe.json"
    result = cli("probe", grid, "--data", classes, "--size", 16, "--neighbours", 2, "-o", output, "--device", "cpu")
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    assert found["format"] == 1 and found["model"] == grid and found["zoo"]
    assert [row["kind"] for row in found["results"]] == ["linear", "linear", "knn", "knn"]
    assert "most frequent" in result.output and "33.3%" in result.output and "learned from 12" in result.output


def test_failures_are_recorded(cli: Cli, flexible: str, classes: Path, tmp_path: Path) -> None:
    (classes / "red" / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "probe.json"
    result = cli("probe", flexible, "--data", classes, "--kind", "knn", "-o", output, "--device", "cpu")
    assert result.exit_code == 1 and "1 failed" in result.output, result.output
    assert [item["name"] for item in json.loads(output.read_text())["failed"]] == ["red/broken.png"]
    assert "broken.png" in (tmp_path / "errors.jsonl").read_text()


def test_mistakes_are_one_line(cli: Cli, flexible: str, classes: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["-o", tmp_path / "a.txt"], "-o names a .json file"),
        (["-o", tmp_path / "a.json", "--size", 64], "--size is for tokenizers of any size"),
        (["-o", tmp_path / "a.json", "--test", tmp_path / "none"], "does not exist"),
    ):
        result = cli("probe", flexible, "--data", classes, "--device", "cpu", *arguments)
        assert result.exit_code == 2 and message in result.output.replace("\n", " "), result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "a.json").exists()
