"""The engine: every item once through every setting, what is finished is kept, what is written can be read."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import zoo
from zoo.data.images import from_pil
from zoo.evaluation import Protocol, Results, evaluate, read_results, write_results
from zoo.evaluation import engine as engine_module
from zoo.evaluation import job as job_module
from zoo.evaluation.outcome import Setting
from zoo.evaluation.passage import Clock, Passage
from zoo.evaluation.plan import settings_of
from zoo.evaluation.reading import grouped, read_ahead
from zoo.evaluation.results import Run
from zoo.metrics import codebook_usage, psnr
from zoo.tokenizer import Tokenizer

VIEW = {"size": 64, "resize": "pil_bicubic", "crop": "center", "levels": "round"}
SMALL = Protocol("small", "Small pictures", "image", "this test", VIEW, {"psnr": [{}], "codes": [{}]})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return zoo.load("fsq_f8_tiny")


def values(run: Run, place: int = 0) -> dict[str, float | None]:
    return {number.key: number.value for number in run.settings[place].numbers}


def directly(tokenizer: Tokenizer, photos: Path) -> tuple[float, float]:
    """PSNR and usage without the engine."""
    pictures = torch.stack([from_pil(Image.open(path)) for path in sorted(photos.glob("*.png"))])
    with torch.no_grad():
        code = tokenizer.encode(pictures)
        output = tokenizer.decode(code).clamp(-1, 1)
    rounded = (output * 127.5 + 128).clamp(0, 255).floor() / 127.5 - 1
    each = [float(psnr(a[None], b[None])) for a, b in zip(rounded, pictures, strict=True)]
    return float(np.mean(each)), float(codebook_usage(code.indices, tokenizer.spec.codebook_sizes[0]))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_numbers_are_those_of_the_tokenizer_itself(tokenizer: Tokenizer, photos: Path, batch_size: int) -> None:
    (run,) = evaluate({"mine": tokenizer}, photos, protocol=SMALL, batch_size=batch_size).runs
    wanted_psnr, wanted_usage = directly(tokenizer, photos)
    found = values(run)
    assert found["psnr[small]"] == pytest.approx(wanted_psnr, abs=1e-4)
    assert found["codes.usage[small]"] == pytest.approx(wanted_usage)
    assert run.model == "mine" and run.data.items == 7 and not run.failed
    assert {number.samples for number in run.settings[0].numbers} == {7}
    rate = run.settings[0].rate
    assert rate is not None and rate.tokens == 64 and rate.unit == "bit/pixel"
    assert rate.value == pytest.approx(64 * tokenizer.spec.bits_per_token / 64**2)
    assert run.encode is not None and run.settings[0].decode is not None
    assert run.encode.extent_per_second == pytest.approx(run.encode.items_per_second * 64**2)
    assert run.origin.settings["threads"] == torch.get_num_threads() and run.origin.settings["dtype"] == "float32"


def test_settings_share_one_encoding(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = Passage.encode
    monkeypatch.setattr(Passage, "encode", lambda self, *given: calls.append(len(given[0])) or encode(self, *given))
    names = ["onedpiece_tiny_128", "fsq_f8_tiny"]
    results = evaluate(names, photos, metrics=["psnr"], tokens=[4, 999, 128], limit=3, batch_size=2)
    one, two = results.runs
    assert [setting.tokens for setting in one.settings] == [4, 128] and two.settings[0].tokens is None
    assert calls == [2, 1, 2, 1]
    assert values(one)["psnr[plain@128]"] < values(one, 1)["psnr[plain@128]"]
    assert [setting.rate.tokens for setting in one.settings] == [4, 128]
    assert (one.data.items, one.data.available) == (3, 7)


def test_protocols_and_sizes(tokenizer: Tokenizer, photos: Path) -> None:
    (run,) = evaluate({"a": tokenizer}, photos, protocol=SMALL, size=32, metrics=["psnr"], limit=2).runs
    assert list(values(run)) == ["psnr[small@32]"]
    with pytest.raises(ValueError, match=r"takes 128 x 128 and the protocol has 256 x 256; --size 128"):
        evaluate("onedpiece_tiny_128", photos, protocol="titok")


def test_levels_of_one_measure(tokenizer: Tokenizer, photos: Path) -> None:
    floats = replace(SMALL, view={**VIEW, "levels": "float"})
    both = [replace(floats, metrics={"psnr": [{}]}), replace(floats, metrics={"psnr": [{"levels": "round"}]})]
    plain, rounded = (evaluate({"a": tokenizer}, photos, protocol=item).runs[0] for item in both)
    assert values(rounded) == values(evaluate({"a": tokenizer}, photos, protocol=SMALL, metrics=["psnr"]).runs[0])
    assert values(plain) != values(rounded)
    assert rounded.settings[0].numbers[0].details["levels"] == "round"


def test_what_is_written_is_what_is_returned(tokenizer: Tokenizer, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "results"
    results = evaluate({"mine": tokenizer}, photos, protocol=SMALL, output=output, samples=2, command="zoo evaluate x")
    assert read_results(output) == read_results(output / "results.json") == results
    (run,) = results.runs
    assert run.originals == [f"samples/mine/small/original/{n:04d}_{n}.png" for n in range(2)]
    assert run.settings[0].samples == [f"samples/mine/small/whole/{n:04d}_{n}.png" for n in range(2)]
    original = np.asarray(Image.open(output / run.originals[1]))
    assert np.array_equal(original, np.asarray(Image.open(photos / "1.png")))
    assert {path.name for path in output.iterdir()} == {"results.json", "samples"}
    data = json.loads((output / "results.json").read_text("utf-8"))
    assert data["format"] == 1 and data["runs"][0]["origin"]["command"] == "zoo evaluate x"
    assert len(data["runs"][0]["weights"]) == len(data["runs"][0]["data"]["digest"]) == 64


def test_results_are_read_strictly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no results at"):
        read_results(tmp_path)
    path = write_results(tmp_path, Results())
    path.write_text('{"format": 9}', encoding="utf-8")
    with pytest.raises(ValueError, match="expected results of format 1, got 9"):
        read_results(tmp_path)
    path.write_text('{"format": 1, "ru', encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json"):
        read_results(tmp_path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tokenizers that were really measured."""
    names: list[str] = []
    measure = engine_module._measure
    monkeypatch.setattr(
        engine_module, "_measure", lambda job, task, *rest: names.append(task.name) or measure(job, task, *rest)
    )
    return names


def test_finished_tokenizers_are_kept(
    tokenizer: Tokenizer, photos: Path, tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, both = tmp_path / "results", {"a": tokenizer, "b": tokenizer}
    encode, passed = Passage.encode, []

    def interrupted(self: Passage, batch: Tensor, extent: Tensor) -> object:
        passed.append(len(batch))
        if sum(passed) > 7:
            raise KeyboardInterrupt
        return encode(self, batch, extent)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Passage, "encode", interrupted)
        evaluate(both, photos, protocol=SMALL, output=output)
    assert [run.model for run in read_results(output).runs] == ["a"] and not list(output.glob(".*"))
    results = evaluate(both, photos, protocol=SMALL, output=output)
    assert measured == ["a", "b", "b"]
    assert [run.model for run in results.runs] == ["a", "b"] and read_results(output) == results
    again = evaluate(both, photos, protocol=SMALL, output=output)
    assert again == results and len(measured) == 3
    evaluate(both, photos, protocol=SMALL, output=output, overwrite=True)
    assert measured[3:] == ["a", "b"] and len(read_results(output).runs) == 2


def test_what_numbers_depend_on_is_measured_again(
    tokenizer: Tokenizer, photos: Path, tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "results"

    def times(**options: object) -> int:
        measured.clear()
        evaluate({"a": tokenizer}, photos, **{"protocol": SMALL, "output": output, "samples": 1, **options})
        return len(measured)

    assert times() == 1 and times() == 0
    assert times(batch_size=2) == 0, "the batch size decides no number"
    assert times(metrics=["psnr"]) == 1 and times(limit=5, metrics=["psnr"]) == 1 and times(dtype="bfloat16") == 1
    assert times(protocol=replace(SMALL, view={**VIEW, "levels": "float"})) == 1 and times() == 1
    (output / "samples/a/small/original/0000_0.png").unlink()
    assert times() == 1, "a file is missing"
    with (photos / "3.png").open("ab") as file:
        file.write(b"changed")
    assert times() == 1 and len(read_results(output).runs) == 1
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "versions", lambda: {"torch": "another"})
        assert times() == 1
    assert times() == 1
    with torch.no_grad():
        changed = zoo.load("fsq_f8_tiny")
        next(changed.parameters()).mul_(1.01)
    evaluate({"a": changed}, photos, protocol=SMALL, output=output)
    assert len(measured) == 2


def test_shards_are_data_as_well(tokenizer: Tokenizer, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos-000.tar", "w") as shard:
        for path in sorted(photos.iterdir()):
            shard.add(path, path.name)
    folder, shards = (
        evaluate({"a": tokenizer}, place, protocol=SMALL).runs[0] for place in (photos, tmp_path / "photos-000.tar")
    )
    assert values(folder) == values(shards) and shards.data.items == 7
    assert folder.data.digest != shards.data.digest, "names are part of it"


def test_other_runs_of_a_folder_stay(tokenizer: Tokenizer, photos: Path, tmp_path: Path) -> None:
    evaluate({"a": tokenizer}, photos, protocol=SMALL, output=tmp_path)
    (other,) = evaluate({"b": tokenizer}, photos, protocol=SMALL, output=tmp_path).runs
    assert [run.model for run in read_results(tmp_path).runs] == ["a", "b"] and other.model == "b"


def test_items_are_read_ahead_in_order_and_grouped_by_shape() -> None:
    class Source:
        names = tuple(map(str, range(20)))

        def read(self, index: int) -> bytes:
            return bytes([index])

    def read(data: bytes, name: str) -> int:
        if data[0] == 5:
            raise ValueError("bad")
        return data[0]

    found = list(read_ahead(Source(), range(0, 20, 3), read, ahead=2))  # type: ignore[arg-type]
    assert [index for index, _ in found] == list(range(0, 20, 3)) and all(index == item for index, item in found)
    (error,) = [item for _, item in read_ahead(Source(), [5], read, ahead=4)]  # type: ignore[arg-type]
    assert isinstance(error, ValueError)
    items = [(number, number) for number in range(50)]
    groups = list(grouped(iter(items), lambda item: item % 7, 3))
    assert sorted(pair for group in groups for pair in group) == items
    assert max(map(len, groups)) <= 3 and all(len({item % 7 for _, item in group}) == 1 for group in groups)


def test_the_first_of_several_batches_warms_up() -> None:
    clock = Clock()
    clock.add(2, 8.0, 100.0)
    assert clock.seconds == 100
    clock.add(2, 8.0, 1.0)
    clock.add(1, 4.0, 0.5)
    assert (clock.items, clock.extent, clock.seconds) == (3, 12.0, 1.5)


def test_settings() -> None:
    flexible, codec = zoo.load("onedpiece_tiny_128"), zoo.load("rvq_tiny_24k")
    assert settings_of(flexible, [], []) == [Setting()]
    assert settings_of(flexible, [8, 500, 8], [1]) == [Setting(8), Setting(128)]
    books = len(codec.spec.codebook_sizes)
    assert settings_of(codec, [8], [1, 99]) == [Setting(None, 1), Setting(None, books)]


def test_wrong_calls_are_explained(tokenizer: Tokenizer, photos: Path, tmp_path: Path) -> None:
    mine = {"mine": tokenizer}
    for given, message in (
        ({"tokens": [4]}, "needs a model whose prefixes decode"),
        ({"codebooks": [1]}, "needs a residual codec"),
        ({"steps": 3}, "paint in steps"),
        ({"device": "cuda:1", "processes": 2}, "need a GPU each"),
        ({"dtype": "int8"}, "dtype is one of float32"),
        ({"reference": tmp_path / "r.npz", "protocol": "titok"}, "compares with the originals"),
        ({"protocol": replace(SMALL, reference="statistics")}, "name the file with --reference"),
        ({"protocol": replace(SMALL, metrics={"psnr": [{"colour": "red"}]})}, "psnr does not take"),
        ({"protocol": "plain_audio"}, "is for audio tokenizers"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(mine, photos, **given)
    with pytest.raises(FileNotFoundError, match="no reference statistics"):
        evaluate(mine, photos, reference=tmp_path / "r.npz", protocol="adm")
    with pytest.raises(ValueError, match="at least one"):
        evaluate([], photos)
    with pytest.raises(KeyError, match="closest: fsq_f8_tiny"):
        evaluate("fsq_f8_tin", photos)
