"""Two gloo processes with different seeds and data end with equal codebooks and exact batch statistics."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from quantizer_cases import CASES
from torch import Tensor

from quantizers import LFQ, VQ

WORKER = Path(__file__).with_name("distributed_worker.py")
WORLD = 2


def run_ranks(scenario: str, folder: Path) -> list[dict[str, Any]]:
    tests = WORKER.parents[1]
    paths = [str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), scenario, str(rank), str(WORLD), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, error in zip(ranks, errors, strict=True):
        assert rank.returncode == 0, error
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def batch(step: int, rank: int, tokens: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(2, tokens, dim, generator=generator) + rank


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        assert tensor.isfinite().all(), name


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks("cases", tmp_path_factory.mktemp("cases"))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.state])
def test_state_is_equal_on_all_ranks(name: str, cases: list[dict[str, Any]]) -> None:
    first, second = (rank[name] for rank in cases)
    assert_equal(first, second)


@pytest.mark.parametrize("scenario", ["ema", "ema_kmeans_revive", "norm_ema", "gradient_kmeans_revive"])
@pytest.mark.parametrize("prefix", ["", pytest.param("compiled_", marks=pytest.mark.slow)])
def test_codebooks_are_equal_on_all_ranks(prefix: str, scenario: str, tmp_path: Path) -> None:
    if prefix and scenario.startswith("gradient"):
        pytest.skip("compiled data-parallel gradients are the trainer's test")
    first, second = run_ranks(prefix + scenario, tmp_path)
    assert_equal(first, second)
    assert len(first["codebook"].unique(dim=0)) == 24
    if scenario == "ema":  # the statistics are those of one process that sees all the data
        torch.manual_seed(0)
        alone = VQ(4, 24, learn="ema", decay=0.8).train()
        for step in range(6):
            parts = [batch(step, 0, 20, 4), batch(step, 1, 0 if step == 3 else 25, 4)[:, :-1]]
            alone(torch.cat(parts, dim=1))
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(tensor, first[name], rtol=1e-4, atol=1e-5)


def test_codebooks_drift_apart_as_in_the_references(tmp_path: Path) -> None:
    first, second = run_ranks("reference_bugs", tmp_path)
    assert (first["codebook"] - second["codebook"]).abs().max() > 0.1


def test_lfq_batch_entropy_is_global(tmp_path: Path) -> None:
    results = run_ranks("lfq", tmp_path)
    parts = [(batch(0, rank, 5 + 3 * rank, 6) * 0.01).requires_grad_() for rank in range(WORLD)]
    entropy = LFQ(6).train()(torch.cat(parts, dim=1)).parts["batch_entropy"]
    entropy.backward()
    for result, part in zip(results, parts, strict=True):
        torch.testing.assert_close(result["batch_entropy"], entropy.detach())
        assert part.grad is not None  # data-parallel training averages the gradients of the ranks
        torch.testing.assert_close(result["gradient"] / WORLD, part.grad)
