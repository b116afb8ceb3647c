"""Two gloo processes on the CPU: DDP and FSDP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.training.snapshots import last_checkpoint

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(900)
CRITIC = [
    "+objective.critic._target_=zoo.objectives.PatchCritic",
    "+objective.critic.channels=32",
    "+objective.critic.stages=1",
    "+objective.adversarial_start=1",
]
WORKER = """
import sys
import torch
from lightning.pytorch import Callback
from zoo.training import train

class Compare(Callback):
    def on_train_end(self, trainer, module):
        assert trainer.world_size == 2
        values = module.state_dict().values()
        values = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in values]
        both = module.all_gather(torch.cat([value.double().flatten() for value in values]))
        assert torch.equal(both[0], both[1]), (both[0] - both[1]).abs().max()
        print(f"rank {trainer.global_rank} equal", flush=True)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        both = module.all_gather(batch)
        assert not torch.equal(both[0], both[1])

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1], sys.argv[2:], callbacks=[Compare()])
"""


def run(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train titok_tiny on two processes; the last checkpoint."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(script), "titok_tiny", *overrides, "trainer.devices=2"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 0 equal" in done.stdout
    assert "rank 1 equal" in done.stdout
    path = last_checkpoint(folder / "run")
    assert path is not None
    return torch.load(path, weights_only=True)


def distance(left: dict[str, Any], right: dict[str, Any]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[key].double() - right[key].double()).abs().max()) for key in left)


def test_critic_on_two_processes(small: list[str], tmp_path: Path) -> None:
    checkpoint = run(tmp_path, [*small, *CRITIC, "trainer.max_steps=3"])
    assert checkpoint["global_step"] == 3
    zoo.load(tmp_path / "run" / "model")


@pytest.mark.slow
def test_fsdp_does_what_ddp_does(small: list[str], tmp_path: Path) -> None:
    states = {}
    for strategy in ("ddp", "fsdp"):
        (tmp_path / strategy).mkdir()
        folder = tmp_path / strategy
        options = [*small, f"run_dir={folder / 'run'}", f"trainer.strategy={strategy}", "trainer.max_steps=3"]
        states[strategy] = run(folder, options)["state_dict"]
        zoo.load(folder / "run" / "model")
    assert distance(states["ddp"], states["fsdp"]) < 1e-5


@pytest.mark.slow
def test_fsdp_resumes(small: list[str], tmp_path: Path) -> None:
    options = [*small, "trainer.strategy=fsdp", "trainer.max_steps=4"]
    often = ["trainer.checkpoint_minutes=0", "trainer.keep_checkpoints=9"]
    whole = run(tmp_path, [*options, *often])
    half = tmp_path / "run" / "checkpoints" / "step-000000002.ckpt"
    resumed = run(tmp_path, [*options, f"resume={half}"])
    assert resumed["global_step"] == 4
    assert distance(whole["state_dict"], resumed["state_dict"]) == 0
