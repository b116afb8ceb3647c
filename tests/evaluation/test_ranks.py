"""Several processes measure what one measures: no item twice, none left out, the same numbers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import zoo
from zoo.evaluation import Protocol, Results, evaluate, read_results
from zoo.evaluation.ranks import World, joined

ROOT = Path(__file__).parents[2]
VIEW = {"size": 64, "resize": "pil_bicubic", "crop": "center", "levels": "round"}
METRICS = {"psnr": [{}], "ssim": [{}], "codes": [{}], "bpp": [{}]}
SMALL = Protocol("small", "Small pictures", "image", "this test", VIEW, METRICS)


def assert_equal(found: Results, wanted: Results, rel: float) -> None:
    """Numbers, rates and failures; not speeds."""
    for one, two in zip(found.runs, wanted.runs, strict=True):
        assert (one.model, one.protocol, one.data, one.failed) == (two.model, two.protocol, two.data, two.failed)
        assert one.fingerprint == two.fingerprint
        for mine, theirs in zip(one.settings, two.settings, strict=True):
            assert mine.rate == theirs.rate
            for number, other in zip(mine.numbers, theirs.numbers, strict=True):
                assert number.value == pytest.approx(other.value, rel=rel, abs=1e-9), number.key
                assert (number.key, number.samples, number.skipped) == (other.key, other.samples, other.skipped)


def test_items_are_shared_out_exactly() -> None:
    for size in range(1, 6):
        for count in range(12):
            taken = Counter(item for rank in range(size) for item in World(rank, size).mine(count))
            assert taken == Counter(range(count))


def test_alone_nothing_is_joined() -> None:
    with joined("cpu") as world:
        assert world == World() and world.first and world.gather(3) == [3] and world.told("a") == "a"


def test_two_processes_are_as_one(photos: Path, tmp_path: Path) -> None:
    (photos / "4b.png").write_bytes(b"no picture")
    options = {"protocol": SMALL, "tokens": [8, 64], "samples": 3}
    names = ["onedpiece_tiny_128", "fsq_f8_tiny"]
    options |= {"size": 128}
    alone = evaluate(names, photos, **options, output=tmp_path / "one", batch_size=4)
    both = evaluate(names, photos, **options, output=tmp_path / "two", batch_size=3, processes=2)
    assert_equal(both, alone, rel=1e-4)  # batches of other sizes round differently inside the tokenizer
    assert both.runs[0].data.items == 8 and both.runs[0].settings[0].numbers[0].samples == 7
    assert [failure.name for failure in both.runs[0].failed] == ["4b.png"]
    assert both.runs[0].origin.settings["processes"] == 2
    assert read_results(tmp_path / "two") == both
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png")}
    assert files == {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.png")}
    assert len(both.runs[0].originals) == len(both.runs[0].settings[1].samples) == 3
    again = evaluate(names, photos, **options, output=tmp_path / "two")
    assert again == both, "finished runs are kept whatever the number of processes"


@pytest.mark.slow
def test_more_processes_than_items(photos: Path) -> None:
    options = {"protocol": SMALL, "limit": 2, "batch_size": 1}
    tokenizer = {"mine": zoo.load("fsq_f8_tiny")}
    several, alone = (evaluate(tokenizer, photos, **options, processes=count) for count in (3, 1))
    assert_equal(several, alone, rel=1e-12)


def test_errors_of_processes_reach_the_caller(photos: Path) -> None:
    with pytest.raises(ValueError, match="takes 128 x 128 and the protocol has 64 x 64"):
        evaluate("onedpiece_tiny_128", photos, protocol=SMALL, processes=2)


SCRIPT = """
from zoo.evaluation.ranks import joined, launch

def fail_on_one(device):
    with joined(device) as world:
        if world.rank == 1:
            raise KeyError("only here")
        return sum(world.gather(world.rank))

if __name__ == "__main__":
    try:
        launch(2, fail_on_one, {"device": "cpu"})
    except KeyError as error:
        print("caught", error)
"""


def test_one_process_that_fails_ends_all(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout == "caught 'only here'\n", done.stderr


@pytest.mark.slow
def test_torchrun(photos: Path, tmp_path: Path) -> None:
    with socket.socket() as place:
        place.bind(("localhost", 0))
        port = place.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)),
        *("-m", "zoo.cli", "evaluate", "fsq_f8_tiny", "--data", str(photos), "-o", str(tmp_path / "out")),
        *("--metrics", "psnr", "--device", "cpu"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = read_results(tmp_path / "out")
    assert found.runs[0].origin.settings["processes"] == 2 and done.stdout.count("wrote") == 1
    alone = evaluate("fsq_f8_tiny", photos, metrics=["psnr"])
    assert found.runs[0].settings[0].numbers[0].value == pytest.approx(alone.runs[0].settings[0].numbers[0].value)
