"""`--engine ray`: the same files as the local runner, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_writes_the_same_bytes(
    flexible: str, crops: Path, tmp_path: Path, export: Callable[..., Path], same: Callable[[Path, Path], None]
) -> None:
    pytest.importorskip("ray.data")
    folder = tmp_path / "ray"
    options = ["--data", crops, "-o", folder, "--shard-items", 20, "-b", 2, "--device", "cpu", "--engine", "ray"]
    command = [sys.executable, "-m", "zoo.cli", "export", flexible, *map(str, options), "--actors", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540)
    except subprocess.TimeoutExpired:
        pytest.skip("Ray did not end within nine minutes on this machine")
    if "Ray does not start here" in process.stderr:
        pytest.skip(f"Ray does not start here: {process.stderr.strip().splitlines()[-1]}")
    assert process.returncode == 0, process.stderr
    same(folder, export(flexible, crops, shard_items=20))
    assert len(zoo.TokenDataset(folder)) == 60


def test_ray_is_named_where_it_is_missing(
    flexible: str, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.export.job import open_worker
    from zoo.export.ray_runner import run_ray
    from zoo.export.request import Request

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'tokenizer-zoo\[ray\]'"):
        run_ray(open_worker(Request(flexible, str(crops)), tmp_path / "out"), "cpu")
