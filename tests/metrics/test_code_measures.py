"""Every measure of codes: built from a tokenizer's spec, fed with outcomes, its numbers and details plain data."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from zoo.evaluation.measures.base import Context, Measure
from zoo.evaluation.measures.codes import MEASURES
from zoo.evaluation.outcome import Outcome
from zoo.spec import TokenizerSpec
from zoo.tokens import Tokens

IMAGE = TokenizerSpec("image", (3, 32, 32), (50,), 4, 16, "raster", downsample=8)
SOUND = TokenizerSpec(
    "audio", (1, 800), (8, 8), 4, 20, "time", any_size=True, downsample=50, sample_rate=8000,
    scales=(4, 16), distinct_scales=True,
)  # fmt: skip
SHAPE = TokenizerSpec("shape", (64, 3), (50,), 4, 16, "coarse_to_fine", flexible=True)


def outcome(spec: TokenizerSpec, seed: int = 0) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(spec.codebook_sizes[0], (6, spec.num_tokens, len(spec.codebook_sizes)), generator=generator)
    size = {"image": torch.tensor([[32, 32]]), "audio": torch.tensor([[800]])}.get(spec.modality)
    tokens = Tokens(
        indices, spec.codebook_sizes, size=None if size is None else size.expand(6, -1), scales=spec.scales,
        distinct_scales=spec.distinct_scales, order=spec.order,
    )  # fmt: skip
    extent = {"image": 1024.0, "audio": 0.1, "shape": 1.0}[spec.modality]
    nothing = torch.zeros(6, 1)
    names = tuple(f"{number}" for number in range(6))
    return Outcome(nothing, nothing, tokens, spec, torch.full((6,), extent, dtype=torch.float64), names)


CASES = [(item, spec) for item in MEASURES for spec in (IMAGE, SOUND, SHAPE) if spec.modality in item.modalities]


@pytest.mark.parametrize(("item", "spec"), CASES, ids=[f"{item.name}-{spec.modality}" for item, spec in CASES])
def test_measure(item: Measure, spec: TokenizerSpec) -> None:
    metric = item.build(Context(spec))
    for seed in range(3):
        item.feed(metric, outcome(spec, seed))
    values = metric.compute()
    numbers = {key: float(values[key]) for key in item.numbers}
    undefined = ("hundredth", "share_100", "zipf", "h", "rate")  # of so few random codes
    assert all(math.isfinite(value) for key, value in numbers.items() if key.rstrip("_1234") not in undefined)
    assert json.loads(json.dumps(item.details(metric))) is not None


def built(name: str, spec: TokenizerSpec, **options: Any) -> dict[str, float]:
    item = next(item for item in MEASURES if item.name == name)
    metric = item.build(Context(spec), **options)
    item.feed(metric, outcome(spec))
    return {key: float(metric.compute()[key]) for key in item.numbers}


def test_rates_are_told_per_what_they_say() -> None:
    assert built("bpp", IMAGE)["nominal"] == pytest.approx(16 * math.log2(50) / 1024)
    assert built("bits", IMAGE)["nominal"] == pytest.approx(16 * math.log2(50)) and built("bits", SHAPE)["tokens"] == 16
    sound = built("kbps", SOUND)
    assert sound["nominal"] == pytest.approx(20 * 6 / 0.1 / 1000) and sound["tokens"] == pytest.approx(200)
    assert built("bits", IMAGE, context="position")["coded"] != built("bits", IMAGE)["coded"]


def test_continuous_tokenizers_are_refused() -> None:
    continuous = TokenizerSpec("image", (3, 32, 32), (), 4, 16, "raster")
    for item in MEASURES:
        with pytest.raises(ValueError, match="continuous latents have no codes"):
            item.build(Context(continuous))
