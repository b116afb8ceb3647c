"""How many tokens training keeps: distributions of the schedules, and what a family does with a draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.families import NestedDropout, OneDPiece
from zoo.families.dropout import visible

DRAWS = 20_000
RESTOK = {"schedule": "choices", "choices": [4, 8, 16, 32, 64], "weights": [1, 2, 4, 8, 16], "full_probability": 0.8}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def frequencies(lengths: Tensor, num_tokens: int) -> Tensor:
    return torch.bincount(lengths - 1, minlength=num_tokens).double() / len(lengths)


# What the published trainings draw from, written out: length -> chance.
PUBLISHED: list[tuple[str, dict[str, Any], int, dict[int, float]]] = [
    ("tail token drop", {"per": "batch"}, 8, dict.fromkeys(range(1, 9), 1 / 8)),
    ("uniform", {}, 6, dict.fromkeys(range(1, 7), 1 / 6)),
    ("powers of two", {"schedule": "pow2"}, 256, {2**k: 1 / 9 for k in range(9)}),
    ("powers of two below 100", {"schedule": "pow2"}, 100, {**{2**k: 1 / 8 for k in range(7)}, 100: 1 / 8}),
    ("powers of two of one", {"schedule": "pow2"}, 1, {1: 1.0}),
    ("rounded up", {"schedule": "uniform_pow2"}, 12, {1: 1 / 12, 2: 1 / 12, 4: 2 / 12, 8: 4 / 12, 12: 4 / 12}),
    ("ResTok", RESTOK, 128, {**{4 * 2**k: 0.2 * 2**k / 31 for k in range(5)}, 128: 0.8}),
    ("often whole", {"full_probability": 0.5}, 4, {1: 0.125, 2: 0.125, 3: 0.125, 4: 0.625}),
    ("even list", {"schedule": "choices", "choices": [3, 7]}, 9, {3: 0.5, 7: 0.5}),
]


@pytest.mark.parametrize(("_", "arguments", "count", "expected"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_lengths_are_drawn_as_published(
    _: str, arguments: dict[str, Any], count: int, expected: dict[int, float]
) -> None:
    dropout = NestedDropout(**arguments)
    chances = torch.zeros(count, dtype=torch.float64)
    for length, chance in expected.items():
        chances[length - 1] = chance
    torch.testing.assert_close(dropout.probabilities(count), chances)
    if dropout.per == "sample":
        lengths = dropout.draw(DRAWS, count)
    else:
        lengths = torch.cat([dropout.draw(1, count) for _ in range(DRAWS // 4)])
    assert lengths.dtype == torch.int64 and lengths.min() >= 1 and lengths.max() <= count
    deviation = (chances * (1 - chances) / len(lengths)).sqrt()
    assert ((frequencies(lengths, count) - chances).abs() <= 5 * deviation + 1e-12).all()


def test_one_draw_for_a_batch_or_one_for_each_sample() -> None:
    batch, sample = NestedDropout(per="batch", full_probability=0.3), NestedDropout(full_probability=0.3)
    assert all(len(batch.draw(16, 64).unique()) == 1 for _ in range(50))
    assert len(sample.draw(64, 64).unique()) > 10
    assert batch.draw(16, 64).shape == (16,)


def test_draws_follow_the_global_seed() -> None:
    for arguments in ({}, {"schedule": "pow2"}, RESTOK):
        dropout = NestedDropout(**arguments)  # type: ignore[arg-type]
        torch.manual_seed(7)
        first = dropout.draw(32, 128)
        torch.manual_seed(7)
        assert torch.equal(dropout.draw(32, 128), first)
        assert not torch.equal(dropout.draw(32, 128), first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "linear"}, "schedule is one of uniform, pow2, uniform_pow2, choices"),
        ({"per": "token"}, "per is sample or batch"),
        ({"full_probability": 1.5}, "full_probability lies in"),
        ({"schedule": "choices"}, "choices belong to"),
        ({"choices": [1, 2]}, "choices belong to"),
        ({"schedule": "choices", "choices": [0, 4]}, "at least 1"),
        ({"schedule": "choices", "choices": []}, "at least 1"),
        ({"schedule": "choices", "choices": [1, 4], "weights": [1.0]}, "one weight for each choice"),
        ({"schedule": "choices", "choices": [1, 4], "weights": [0.0, 0.0]}, "one is above it"),
        ({"weights": [1.0]}, "one weight for each choice"),
    ],
)
def test_schedules_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NestedDropout(**arguments)


def test_choices_longer_than_the_code_are_refused() -> None:
    with pytest.raises(ValueError, match="go up to 16, but the code has 8"):
        NestedDropout("choices", choices=[4, 16]).draw(2, 8)


def test_only_lengths_that_differ_cost_a_mask() -> None:
    latents = torch.randn(3, 8, 2)
    assert visible(latents, None)[1] is None
    cut, mask = visible(latents, torch.tensor([5, 5, 5]))
    assert mask is None and torch.equal(cut, latents[:, :5])
    cut, mask = visible(latents, torch.tensor([5, 2, 6]))
    assert cut.shape == (3, 6, 2) and mask is not None and mask.tolist() == [5, 2, 6]


def titok(family: str = "TiTok", **options: Any) -> Any:
    size = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4, "num_tokens": 6, "dim": 4}
    return zoo.build(
        {
            "_target_": f"zoo.families.{family}",
            "encoder": {"_target_": "encoders.ViT1D", **size},
            "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 5, 5, 5]},
            "decoder": {"_target_": "decoders.ViT1DDecoder", **size},
            **options,
        }
    )


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_a_schedule_makes_titok_flexible(per: str, tmp_path: Any) -> None:
    node = {"_target_": "zoo.families.NestedDropout", "schedule": "pow2", "per": per}
    tokenizer = titok(dropout=node)
    assert tokenizer.spec.flexible and tokenizer.spec.order == "coarse_to_fine"
    assert not titok().spec.flexible and titok().spec.order == "raster"
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    seen = set()
    for _ in range(30):
        shown = tokenizer.train()(x)
        seen |= set(shown.lengths.tolist())
        assert (len(shown.lengths.unique()) == 1) or per == "sample"
    assert seen == {1, 2, 4, 6}
    again = zoo.load(tokenizer.eval().save_pretrained(tmp_path))
    assert again.dropout == NestedDropout("pow2", per=per)  # type: ignore[arg-type]
    with torch.no_grad():
        assert again(x).lengths is None, "dropout is for training"


def test_each_sample_is_trained_as_if_cut_at_its_length() -> None:
    tokenizer = titok(dropout={"_target_": "zoo.families.NestedDropout"}).train()
    x = torch.rand(5, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        shown = tokenizer(x)
        assert len(shown.lengths.unique()) > 1
        for item, length in enumerate(shown.lengths.tolist()):
            alone = tokenizer.decoder(shown.quantized.latents[item : item + 1, :length])
            torch.testing.assert_close(shown.output[item], alone[0], rtol=1e-4, atol=1e-5)


def test_one_d_piece_drops_tails_unless_told_otherwise() -> None:
    piece = titok("OneDPiece").train()
    assert isinstance(piece, OneDPiece) and piece.dropout == NestedDropout("uniform", per="batch")
    latents = torch.randn(4, 6, 4)
    for _ in range(20):
        cut, lengths = piece.regularize(latents)
        assert lengths.tolist() == [cut.shape[1]] * 4
    # The draw of the reference: one integer from the global generator.
    torch.manual_seed(3)
    expected = int(torch.randint(1, 7, (1,)))
    torch.manual_seed(3)
    assert piece.regularize(latents)[0].shape[1] == expected
    other = titok("OneDPiece", dropout={"_target_": "zoo.families.NestedDropout", "schedule": "pow2"})
    assert other.dropout.schedule == "pow2"


def test_a_recipe_chooses_its_schedule() -> None:
    from omegaconf import OmegaConf

    from zoo.store.build import build, compose

    text = "{_target_: zoo.families.NestedDropout, schedule: pow2, per: sample, full_probability: 0.25}"
    node = compose("titok_tiny", [f"+tokenizer.dropout={text}"]).tokenizer
    tokenizer = build(OmegaConf.to_container(node, resolve=True), device="meta")  # type: ignore[arg-type]
    assert tokenizer.dropout == NestedDropout("pow2", "sample", 0.25)
    assert tokenizer.spec.flexible
