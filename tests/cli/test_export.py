"""`zoo export` as people call it; what it does is tested in tests/export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import zoo


def test_a_folder_becomes_tokens(cli: Callable[..., Result], flexible: str, photos: Path, tmp_path: Path) -> None:
    result = cli("export", flexible, "--data", photos, "-o", tmp_path / "out", "--device", "cpu", "--tokens", 4)
    assert result.exit_code == 0, result.output
    assert "3 items, 12 tokens in 1 shard of parquet" in result.output
    data = zoo.TokenDataset(tmp_path / "out")
    assert [record.id for record in data] == ["chelsea.jpg", "rocket.webp", "sub/cat.png"]
    again = cli("export", flexible, "--data", photos, "-o", tmp_path / "out", "--device", "cpu", "--tokens", 4)
    assert again.exit_code == 0, again.output


def test_bad_items_are_recorded_and_the_rest_is_done(
    cli: Callable[..., Result], flexible: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "broken.png").write_bytes(b"")
    result = cli("export", flexible, "--data", photos, "-o", tmp_path / "out", "--device", "cpu", "--to", "bin")
    assert result.exit_code == 1 and "1 failed" in result.output
    line = json.loads((tmp_path / "out/errors.jsonl").read_text())
    assert line["input"] == "broken.png" and "empty" in line["message"]
    assert len(zoo.TokenDataset(tmp_path / "out")) == 3
    monkeypatch.setenv("RANK", "1")
    quiet = cli("export", flexible, "--data", photos, "-o", tmp_path / "out", "--device", "cpu", "--to", "bin")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_mistakes_leave_with_two(
    cli: Callable[..., Result], flexible: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = ("-o", tmp_path / "out", "--device", "cpu")
    for arguments, said in (
        (("nothing", "--data", photos, *to), "no model 'nothing'"),
        ((flexible, "--data", tmp_path / "none", *to), "does not exist"),
        ((flexible, "--data", photos, "--order", "delay", *to), "for streams of ids"),
        ((flexible, "--data", photos, "--codebooks", 3, *to), "codebooks"),
    ):
        result = cli("export", *arguments)
        assert result.exit_code == 2 and said in result.output, result.output
    assert cli("export", flexible, "--data", photos, *to).exit_code == 0
    other = cli("export", flexible, "--data", photos, "--tokens", 2, *to)
    assert other.exit_code == 2 and "holds another export" in other.output


def test_processes_of_torchrun_get_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.cli.export import _device

    assert _device("cuda") == "cuda" and _device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (_device("cuda"), _device("cpu"), _device("cuda:1")) == ("cuda:3", "cpu", "cuda:1")
