"""The core: exactly once, whatever dies, whoever runs, wherever the items come from."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import zoo
from zoo.data.audio import read_audio, write_audio
from zoo.data.images import fit, read_image
from zoo.export import core, formats, inputs, work
from zoo.export.claims import Claims
from zoo.export.formats import FORMATS
from zoo.export.job import open_worker, run_export
from zoo.export.local import run_local
from zoo.export.request import Request

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "tests/assets"


def start(model: str, data: Path, folder: Path, to: str, **variables: str) -> subprocess.Popen[bytes]:
    """`zoo export` in a process of its own, sixty items by two."""
    options = ["--data", data, "-o", folder, "--to", to, "--shard-items", 2, "-b", 2, "--device", "cpu"]
    command = [sys.executable, "-m", "zoo.cli", "export", model, *map(str, options)]
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, env={**os.environ, **paths, **variables}, stderr=subprocess.PIPE)


def kill_after(process: subprocess.Popen[bytes], folder: Path, shards: int, delay: float) -> bool:
    """kill -9 some time after so many more shards were recorded; False if the process ended before that."""
    records = folder / core.WORK / "records"
    wanted = len(list(records.glob("[0-9]*"))) + shards
    while process.poll() is None and len(list(records.glob("[0-9]*"))) < wanted:
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that must succeed."""
    message = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 0, message


def survive(kills: int, to: str, model: str, crops: Path, folder: Path, draws: random.Random) -> int:
    """Export into a folder with so many kills at random moments; how many hit a running export."""
    hits = 0
    for _ in range(kills):
        process = start(model, crops, folder, to)
        hits += kill_after(process, folder, draws.randint(0, 8), draws.random() * 0.02)
    finish(start(model, crops, folder, to))
    return hits


def test_a_killed_export_goes_on_and_ends_with_the_same_bytes(
    flexible: str, crops: Path, tmp_path: Path, export: Callable[..., Path], same: Callable[[Path, Path], None]
) -> None:
    folder = tmp_path / "killed"
    process = start(flexible, crops, folder, "parquet")
    assert kill_after(process, folder, 5, 0.003)
    assert not (folder / "manifest.json").exists() and list((folder / core.WORK / "records").iterdir())
    with pytest.raises(FileNotFoundError, match="run an interrupted export again"):
        zoo.TokenDataset(folder)
    finish(start(flexible, crops, folder, "parquet"))
    same(folder, export(flexible, crops))
    assert len({record.id for record in zoo.TokenDataset(folder)}) == 60


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_exports_survive_many_kills(
    to: str, flexible: str, crops: Path, tmp_path: Path, export: Callable[..., Path], same: Callable[[Path, Path], None]
) -> None:
    hits = survive(6, to, flexible, crops, tmp_path / "killed", random.Random(to))
    assert hits >= 2
    same(tmp_path / "killed", export(flexible, crops, to))


@pytest.mark.slow
def test_two_processes_share_the_work_and_one_may_die(
    flexible: str, crops: Path, tmp_path: Path, export: Callable[..., Path], same: Callable[[Path, Path], None]
) -> None:
    folder = tmp_path / "shared"
    ranks = [start(flexible, crops, folder, "mds", RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    kill_after(ranks[1], folder, 4, 0.0)
    finish(ranks[0])
    same(folder, export(flexible, crops, "mds"))


@pytest.mark.parametrize("to", FORMATS)
def test_an_error_at_any_step_leaves_a_folder_that_can_go_on(
    to: str, flexible: str, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    export: Callable[..., Path], same: Callable[[Path, Path], None],
) -> None:  # fmt: skip
    """Every call that touches the disk fails once, in the order in which they come."""
    request, folder = Request(flexible, str(crops), to, shard_items=20, batch_size=20), tmp_path / "broken"
    whole = export(flexible, crops, to, shard_items=20, batch_size=20)
    calls, limit, replace, sync = 0, 0, Path.replace, core._sync

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == limit:
                raise OSError("the plug was pulled")
            return real(*arguments)

        return call

    monkeypatch.setattr(core, "_sync", counted(sync))
    monkeypatch.setattr(Path, "replace", counted(replace))
    failures = 0
    worker = open_worker(request, folder)
    for limit in range(1, 60):  # noqa: B007 - read by `call`
        calls = 0
        try:
            run_local(worker)
        except OSError:
            failures += 1
            worker = open_worker(request, folder)
            continue
        break
    assert failures >= 5
    same(folder, whole)


def test_claims_of_the_dead_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Claims(tmp_path)
    theirs = Claims(tmp_path)
    assert mine.take("1") and not theirs.take("1") and not mine.take("1")
    mine.release("1")
    assert theirs.take("1")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for owner in ({"pid": gone.pid}, {"started": "0"}):
        (tmp_path / "2").write_text(json.dumps({**mine.owner, **owner}))
        assert mine.take("2")
        mine.release("2")
    (tmp_path / "3").write_text(json.dumps({**mine.owner, "machine": "another"}))
    assert not mine.take("3")
    long_ago = time.time() - 1000
    os.utime(tmp_path / "3", (long_ago, long_ago))
    assert mine.take("3")
    monkeypatch.setattr("zoo.export.claims.BEAT", 0.01)
    os.utime(tmp_path / "3", (long_ago, long_ago))
    with mine:
        time.sleep(0.2)
        assert time.time() - (tmp_path / "3").stat().st_mtime < 100
    assert not (tmp_path / "3").exists()


def test_another_export_is_not_mixed_in(flexible: str, grid: str, crops: Path, tmp_path: Path) -> None:
    folder, request = tmp_path / "one", Request(flexible, str(crops), shard_items=20)
    for other, said in (
        (Request(flexible, str(crops), shard_items=30), "shard_items 20 there, 30 here"),
        (Request(flexible, str(crops), shard_items=20, tokens=4), "tokens None there, 4 here"),
        (Request(grid, str(crops), shard_items=20), "model"),
    ):
        open_worker(request, folder)
        with pytest.raises(ValueError, match=f"holds another export .*{said}"):
            open_worker(other, folder)
    run_export(request, folder)
    with pytest.raises(ValueError, match="holds another export"):
        run_export(Request(flexible, str(crops), "mds", shard_items=20), folder)


def test_a_recorded_shard_that_was_lost_is_made_again(
    flexible: str, crops: Path, tmp_path: Path, export: Callable[..., Path], same: Callable[[Path, Path], None]
) -> None:
    folder, request = tmp_path / "lost", Request(flexible, str(crops), shard_items=20, batch_size=2)
    worker = open_worker(request, folder)
    worker.run(iter([0, 2]))
    (folder / "shard-00002.parquet").write_bytes(b"PAR1")
    run_export(request, folder)
    same(folder, export(flexible, crops, shard_items=20))


def shards(folder: Path, kind: str) -> Path:
    """Three WebDataset shards of real pictures, with classes and JSON."""
    folder.mkdir()
    names = ("chelsea.jpg", "coffee.jpg", "astronaut.jpg", "rocket.webp", "cat_64.png")
    for number, part in enumerate((names[:2], names[2:4], names[4:])):
        with tarfile.open(folder / f"part-{number}.tar", "w") as archive:
            for place, name in enumerate(part):
                facts = {"key": name, "width": 10 * place, "nsfw": 0.5, "tags": ["a"], "caption": f"of {name}"}
                if name == "cat_64.png":
                    facts |= {"width": "wide", "more": 1}
                members = {Path(name).suffix: (ASSETS / name).read_bytes(), ".json": json.dumps(facts).encode()}
                if kind != "json":
                    members[".cls"] = str(place).encode() if kind == "numbers" else Path(name).stem.encode()
                if place == 0:
                    members[".txt"] = b"told"
                for suffix, data in members.items():
                    header = tarfile.TarInfo(f"{place:03d}{suffix}")
                    header.size = len(data)
                    archive.addfile(header, io.BytesIO(data))
    return folder


@pytest.mark.parametrize("kind", ["numbers", "names", "json"])
@pytest.mark.parametrize("to", ["parquet", "litdata"])
def test_shards_keep_their_cut_and_their_members(
    kind: str, to: str, flexible: str, tmp_path: Path, export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "PROBED", 4)
    root = shards(tmp_path / "shards", kind)
    data = zoo.TokenDataset(export(flexible, root / "part-*.tar", to))
    assert [shard.input for shard in data.manifest.shards] == ["part-0.tar", "part-1.tar", "part-2.tar"]
    assert [record.id for record in data][::2] == ["part-0.tar/000.jpg", "part-1.tar/000.jpg", "part-2.tar/000.png"]
    assert [record.caption for record in data] == ["told", "of coffee.jpg", "told", "of rocket.webp", "told"]
    assert [record.metadata["width"] for record in data] == [0, 10, 0, 10, None]
    assert json.loads(data[4].metadata["extra"]) == {"width": "wide", "more": 1}
    assert data[0].metadata["nsfw"] == 0.5 and json.loads(data[0].metadata["tags"]) == ["a"]
    labels = {"numbers": [0, 1, 0, 1, 0], "json": [None] * 5, "names": [2, 3, 0, 4, 1]}
    assert [record.label for record in data] == labels[kind]
    names = ("astronaut", "cat_64", "chelsea", "coffee", "rocket")
    assert data.labels == (names if kind == "names" else ())


@pytest.mark.parametrize("to", ["parquet", "mds", "bin"])
def test_saved_data_sets_keep_their_columns(
    to: str, flexible: str, tmp_path: Path, export: Callable[..., Path], same: Callable[[Path, Path], None]
) -> None:
    datasets = pytest.importorskip("datasets")
    names = ("chelsea.jpg", "coffee.jpg", "rocket.webp")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["animal", "thing"]),
            "text": datasets.Value("string"),
            "year": datasets.Value("int32"),
            "boxes": datasets.Sequence(datasets.Value("float32")),
        }
    )
    rows = {
        "image": [{"bytes": (ASSETS / name).read_bytes(), "path": None} for name in names],
        "label": [0, 1, 1],
        "text": ["a cat", "", "to the moon"],
        "year": [1, 2, None],
        "boxes": [[0.5], [], [1.0, 2.0]],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    folder = export(flexible, f"hf:{tmp_path / 'saved'}", to)
    data = zoo.TokenDataset(folder)
    assert [record.id for record in data] == [f"saved/train/{number}" for number in range(3)]
    assert [record.label for record in data] == [0, 1, 1] and data.labels == ("animal", "thing")
    assert [record.caption for record in data] == ["a cat", None, "to the moon"]
    assert [record.metadata["year"] for record in data] == [1, 2, None]
    assert json.loads(data[2].metadata["boxes"]) == [1.0, 2.0]
    image = fit(read_image(ASSETS / "coffee.jpg"), 32)[0]
    with torch.inference_mode():
        assert data[1].tokens.equal(zoo.load(flexible).encode(image[None]))
    with pytest.raises(ValueError, match="neither a folder of save_to_disk"):
        export(flexible, f"hf:{tmp_path / 'nothing'}")


def test_sounds_of_all_lengths_are_as_they_are_alone(tmp_path: Path, export: Callable[..., Path]) -> None:
    root = tmp_path / "sounds"
    whole = read_audio(ASSETS / "speech.flac", 24000, 1)
    for number, seconds in enumerate((0.3, 1.7, 0.1, 3.2, 1.1)):
        (root / "talk").mkdir(parents=True, exist_ok=True)
        write_audio(root / "talk" / f"{number}.wav", whole[:, : int(seconds * 24000)], 24000)
    (root / "talk" / "5.wav").write_bytes(b"RIFF")
    data = zoo.TokenDataset(export("rvq_tiny_24k", root, shard_items=4, chunk=2.0))
    tokenizer = zoo.load("rvq_tiny_24k")
    assert [one.id for one in data.manifest.failed] == ["talk/5.wav"]
    for number, record in enumerate(data):
        sound = read_audio(root / "talk" / f"{number}.wav")
        with torch.inference_mode():
            alone = tokenizer.encode(sound[None])
        assert record.tokens.indices.shape == alone.indices.shape and record.tokens.lengths is None
        assert (record.tokens.indices == alone.indices).float().mean() > 0.995
        assert record.tokens.size is not None and record.tokens.size.tolist() == [[sound.shape[1]]]
        assert data.decode(number, tokenizer).shape == sound.shape


def test_items_that_fail_in_the_model_are_recorded(
    flexible: str, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = open_worker(Request(flexible, str(crops), shard_items=30, batch_size=8), tmp_path / "out")
    encode, bad = worker.reader.encode, read_image(crops / "coffee-07.png")

    def picky(batch: torch.Tensor, lengths: object, captions: object) -> object:
        if any(torch.equal(one, bad) for one in batch):
            raise ValueError("not this one")
        return encode(batch, lengths, captions)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.reader, "encode", picky)
    manifest = run_local(worker)
    assert [(one.id, one.message) for one in manifest.failed] == [("coffee-07.png", "not this one")]
    assert manifest.items == 59

    def broken(*_: object) -> object:
        raise torch.OutOfMemoryError("no memory")

    worker = open_worker(Request(flexible, str(crops)), tmp_path / "memory")
    monkeypatch.setattr(worker.reader, "encode", broken)
    with pytest.raises(RuntimeError, match="smaller --batch-size"):
        run_local(worker)
    assert not worker.export.recorded()


def test_options_that_do_not_fit_are_told(flexible: str, grid: str, crops: Path, tmp_path: Path) -> None:
    for request, said in (
        (Request(flexible, str(crops), order="delay"), "for streams of ids"),
        (Request(grid, str(crops), tokens=3), "order from coarse to fine"),
        (Request(flexible, str(crops), codebooks=2), "codebooks"),
        (Request(flexible, str(crops), "zip"), "the format is one of"),
        (Request(flexible, str(tmp_path)), "holds no images"),
        (Request(flexible, str(crops), size=64), "pictures of any size"),
    ):
        with pytest.raises(ValueError, match=said):
            open_worker(request, tmp_path / "out")
    with pytest.raises(ValueError, match="shard_items is at least 1"):
        Request(flexible, str(crops), shard_items=0)
    with pytest.raises(ValueError, match="in place of max_side"):
        Request(grid, str(crops), size=64, max_side=64)
    assert work.default_workers() >= 1


def test_squares_for_a_tokenizer_of_any_size(grid: str, photos: Path, export: Callable[..., Path]) -> None:
    data = zoo.TokenDataset(export(grid, photos, size=48))
    image = fit(read_image(photos / "food/coffee.jpg"), 48)[0]
    found = next(record for record in data if record.id == "food/coffee.jpg")
    with torch.inference_mode():
        assert found.tokens.equal(zoo.load(grid).encode(image[None]))
    assert {record.tokens.num_tokens for record in data} == {36}


def test_what_a_format_needs_is_told_before_anything_is_made(
    flexible: str, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"parquet needs pyarrow: pip install 'tokenizer-zoo\[export\]'"):
        open_worker(Request(flexible, str(crops)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    open_worker(Request(flexible, str(crops), "webdataset"), tmp_path / "tar")
