"""Kills and signals, with the real command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.training import train
from zoo.training.snapshots import checkpoints, last_checkpoint

ROOT = Path(__file__).resolve().parents[2]
WAIT = 250


def start(arguments: list[str]) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "zoo.training", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the folder has seen `count` checkpoints."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = checkpoints(folder)
        if found and int(found[-1].stem.removeprefix("step-")) >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no checkpoint after {WAIT} s: {process.communicate()[0]}")


def tensors(run: Path) -> dict[str, Any]:
    path = last_checkpoint(run)
    assert path is not None
    checkpoint = torch.load(path, weights_only=True)
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twice_equals_uninterrupted(small: list[str], tmp_path: Path, same: Any) -> None:
    options = [*small, "trainer.max_steps=80", "trainer.threads=1", "trainer.log_every=10", "trainer.validate_every=20"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train("onedpiece_tiny", [*options, f"run_dir={whole}"])

    often = [f"run_dir={killed}", "trainer.checkpoint_minutes=0"]
    process = start(["onedpiece_tiny", *options, *often])
    wait_for(killed / "checkpoints", 7, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(WAIT) == -signal.SIGKILL
    complete = checkpoints(killed / "checkpoints")
    assert len(complete) in (2, 3)
    for path in complete:
        torch.load(path, weights_only=True)
    assert not (killed / "model").exists()

    process = start(["onedpiece_tiny", *options, *often])
    wait_for(killed / "checkpoints", 15, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=WAIT)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "going on with" in output
    assert zoo.load(killed / "model").spec.num_tokens == 32
    assert 15 <= tensors(killed)["global_step"] < 80

    train("onedpiece_tiny", [*options, f"run_dir={killed}"])
    one, two = tensors(whole), tensors(killed)
    assert {key: same(one[key], two[key]) for key in one} == dict.fromkeys(one, True)
