"""The benchmark of the quantizers, at sizes that take a moment."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floors import EntropyFloor, MappedSearchFloor, ScaledSearchFloor, SearchFloor
from benchmarks.meters import contest, peak_bytes
from benchmarks.quantizers import PARTS, Row, main, measure, missed
from benchmarks.works import works

CPU = torch.device("cpu")
OPTIONS = argparse.Namespace(device="cpu", dtype="float32", compile=False, repeats=1, budget=0.1, memory_limit=1)


def test_every_row_is_there() -> None:
    names = [work.name for work in works(8192)]
    assert len(set(names)) == len(names)
    assert {f"VQ K={size} D={dim}" for size in (1024, 4096, 16384, 65536) for dim in (8, 64, 256)} < set(names)
    for word in ("RVQ 8x1024", "grouped RVQ", "SimVQ", "multi-scale", "FSQ 64k", "LFQ 2^10", "LFQ 2^14", "LFQ 2^18"):
        assert any(word in name for name in names)
    assert "BSQ 2^18 entropy N=8192" in names


@pytest.mark.parametrize("name", ["VQ K=1024 D=8", "RVQ", "grouped", "SimVQ", "FSQ", "LFQ 2^10", "multi-scale"])
def test_settings_are_those_of_the_library(name: str) -> None:
    work = next(work for work in works(64) if name in work.name)
    row = measure(work, OPTIONS)
    assert row.agree == (None if work.library is None else 1)
    for part in PARTS:
        assert min(row.ours[part], row.floor[part], row.ours_bytes[part]) > 0
        assert (part in row.library) == (work.library is not None)


def test_a_library_that_needs_too_much_is_left_out() -> None:
    work = next(work for work in works(64) if work.name.startswith("LFQ 2^10"))
    row = measure(work, argparse.Namespace(**{**vars(OPTIONS), "memory_limit": 1e-4}))
    assert set(row.library) == {"encode"}
    assert row.needs == {"train": 7 * 64 * 2**10 * 4}


def test_targets_that_are_missed_are_named() -> None:
    work = next(work for work in works(64) if work.name == "VQ K=16384 D=64")
    row = Row(work.name, 64)
    row.floor, row.library = {"encode": 1.0, "train": 1.0}, {"encode": 6.0, "train": 6.0}
    row.ours, row.ours_bytes = {"encode": 1.0, "train": 1.6}, {"encode": 10, "train": 10}
    row.library_bytes = {"encode": 501, "train": 400}
    assert list(missed(work, row)) == [
        "train 3.75x, wanted 6x",
        "train 1.60 floors, wanted 1.5",
        "train memory 1/40, wanted 1/50",
    ]


def test_command_writes_numbers_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"--json": tmp_path / "rows.json", "--markdown": tmp_path / "rows.md"}
    given = [str(text) for pair in files.items() for text in pair]
    main(["--rows", "FSQ", "--tokens", "64", "--repeats", "1", *given])
    assert "FSQ 64k" in capsys.readouterr().out
    document = json.loads(files["--json"].read_text("utf-8"))
    assert [row["name"] for row in document["rows"]] == ["FSQ 64k"]
    assert {"date", "machine", "torch", "command"} <= set(document["setting"])
    table = [line for line in files["--markdown"].read_text("utf-8").splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 3


def test_search_by_precision_finds_the_same_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--search", "--sizes", "128", "--tokens", "32", "--repeats", "1", "--json", str(tmp_path / "found.json")])
    rows = json.loads((tmp_path / "found.json").read_text("utf-8"))["rows"]
    assert {row["precision"] for row in rows} == {"float32", "tf32", "bfloat16"}
    assert {row["equal"] for row in rows} == {1.0}
    assert "of roofline" in capsys.readouterr().out


def test_memory_is_the_most_that_is_held_at_a_time() -> None:
    def call() -> torch.Tensor:
        for _ in range(3):
            torch.empty(2**20)
        return torch.cat((torch.empty(2**18), torch.empty(2**18)))

    assert 4 * 2**20 <= peak_bytes(call, CPU) < 5 * 2**20


def test_quick_calls_are_repeated_and_slow_ones_are_not() -> None:
    calls = {"quick": 0, "slow": 0}

    def quick() -> None:
        calls["quick"] += 1

    def slow() -> None:
        calls["slow"] += 1
        torch.randn(300, 300) @ torch.randn(300, 300)

    contest({"quick": quick, "slow": slow}, CPU, repeats=2, budget=1e-6)
    assert calls["slow"] == 1
    assert calls["quick"] >= calls["slow"]


@pytest.mark.parametrize(
    "floor",
    [
        SearchFloor([(10, 300, 4), (5, 7, 2)], CPU),
        MappedSearchFloor((10, 30, 4), CPU),
        ScaledSearchFloor((1, 2, 4), 2, 30, 4, CPU),
        EntropyFloor((10, 5), CPU),
    ],
    ids=lambda floor: type(floor).__name__,
)
def test_floors_run(floor: SearchFloor | EntropyFloor) -> None:
    with FlopCounterMode(display=False) as counter:
        floor.train()
    assert counter.get_total_flops() > 0


@pytest.mark.parametrize("tokens", [700, 3])
def test_search_floor_is_all_of_the_product_and_nothing_else(tokens: int) -> None:
    floor = SearchFloor([(tokens, 900, 3), (20, 5000, 2)], CPU)
    with FlopCounterMode(display=False) as counter:
        floor.encode()
    assert counter.get_total_flops() == 2 * (tokens * 900 * 3 + 20 * 5000 * 2)
