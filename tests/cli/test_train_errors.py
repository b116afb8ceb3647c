"""`zoo train` says in one line what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from zoo.cli import app


@pytest.mark.parametrize(
    ("overrides", "message"),
    [([], "data.root"), (["data.root={empty}"], "{empty}"), (["data.root={empty}", "trainer.max_steps=ten"], "ten")],
)
def test_bad_settings_are_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    settings = [item.format(empty=tmp_path) for item in overrides]
    result = CliRunner().invoke(app, ["train", "onedpiece_tiny_128", f"run_dir={tmp_path / 'run'}", *settings])
    assert result.exit_code == 2, result.output
    assert message.format(empty=tmp_path) in result.output.replace("\n", "")
    assert "Traceback" not in result.output
