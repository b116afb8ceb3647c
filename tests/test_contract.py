"""A name that is listed works: every recipe and every card, from building to reloading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import zoo
from zoo import Tokenizer
from zoo.store.build import RECIPES, build, compose
from zoo.store.cards import card
from zoo.store.weights import load_strict

TINY = zoo.list_recipes("*_tiny*", trains=True)  # the others are built on the meta device only
ENCODE_ONLY = zoo.list_recipes("*_tiny*", trains=False)


def parameters(tokenizer: Tokenizer) -> int:
    return sum(parameter.numel() for parameter in tokenizer.parameters())


def items(tokenizer: Tokenizer, count: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(count, *tokenizer.spec.input_shape) * 2 - 1


def check_spec(tokenizer: Tokenizer) -> None:
    spec = tokenizer.spec
    assert spec.codebook_sizes == tuple(tokenizer.quantizer.codebook_sizes)  # type: ignore[arg-type]
    assert spec.num_tokens > 0 and spec.dim > 0
    assert spec.continuous == (spec.codebook_sizes == ())
    assert spec.bits == spec.num_tokens * spec.bits_per_token


def check_round_trip(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.eval()
    x, spec = items(tokenizer), tokenizer.spec
    with torch.no_grad():
        tokens = tokenizer.encode(x)
        output = tokenizer.decode(tokens)
        assert tokens.indices.shape == (2, spec.num_tokens, len(spec.codebook_sizes))
        assert tokens.order == spec.order and tokens.codebook_sizes == spec.codebook_sizes
        assert torch.equal(output, tokenizer(x).output)
        if not spec.continuous:
            ids = tokens.to_ids()
            again = zoo.Tokens.from_ids(
                ids,
                spec.codebook_sizes,
                scales=spec.scales,
                distinct_scales=spec.distinct_scales,
                token_order=spec.order,
                size=tokens.size,
            )
            assert torch.equal(tokenizer.decode(again), output)
        one = tokenizer.decode(tokens[1])
        torch.testing.assert_close(one, output[1:], rtol=1e-4, atol=1e-4)
        if spec.flexible:
            short = tokens.keep(max(1, spec.num_tokens // 3))
            assert tokenizer.decode(short).shape == output.shape
            assert not torch.equal(tokenizer.decode(short), output)
    tokenizer.save_pretrained(folder)
    again = zoo.load(folder)
    with torch.no_grad():
        assert again.encode(x).equal(tokens)
        assert torch.equal(again.decode(tokens), output)
    assert again.spec == spec and again.config == tokenizer.config


@pytest.mark.parametrize("name", zoo.list_recipes())
def test_recipe_builds(name: str) -> None:
    tokenizer = build(name, device="meta")
    assert tokenizer.config["_target_"] == f"zoo.families.{type(tokenizer).__name__}"
    check_spec(tokenizer)


@pytest.mark.parametrize("name", TINY)
def test_small_recipe_keeps_the_contract(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_round_trip(zoo.build(name), tmp_path)


@pytest.mark.parametrize("name", ENCODE_ONLY)
def test_small_encode_only_recipe_keeps_the_contract(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = zoo.build(name).eval()
    x, spec = items(tokenizer), tokenizer.spec
    assert not spec.decodes
    with torch.no_grad():
        tokens = tokenizer.encode(x)
        assert 0 < tokens.num_tokens <= spec.num_tokens
        assert tokens.order == spec.order and tokens.codebook_sizes == spec.codebook_sizes
        fields = {"size": tokens.size, "positions": tokens.positions, "durations": tokens.durations}
        again = zoo.Tokens.from_ids(tokens.to_ids(), spec.codebook_sizes, token_order=spec.order, **fields)
        assert again.equal(tokens)
        assert tokenizer.code_latents(tokens).shape == (2, tokens.num_tokens, spec.dim)
        alone, count = tokenizer.encode(x[1:]), int(tokens.mask[1].sum())
        assert torch.equal(alone.indices[0], tokens.indices[1, :count])
        with pytest.raises(ValueError, match="no decoder"):
            tokenizer.decode(tokens)
        with pytest.raises(ValueError, match="no decoder"):
            tokenizer(x)
        tokenizer.save_pretrained(tmp_path)
        loaded = zoo.load(tmp_path)
        assert loaded.encode(x).equal(tokens)
        assert loaded.spec == spec and loaded.config == tokenizer.config


def learning_loss(tokenizer: Tokenizer, x: torch.Tensor) -> torch.Tensor:
    """A loss () that reaches all that there is to train."""
    if not tokenizer.spec.decodes:
        found = tokenizer.quantizer(tokenizer.encode_latents(x))
        return (found.latents**2).mean() + found.loss
    result = tokenizer(x)
    loss = (result.output**2).mean() + result.quantized.loss
    return loss + sum(logits.float().square().mean() for logits in result.extras.values())


@pytest.mark.parametrize("name", [*TINY, *ENCODE_ONLY])
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    tokenizer = zoo.build(name).train()
    learning = {key for key, parameter in tokenizer.named_parameters() if parameter.requires_grad}
    missed, x = learning, items(tokenizer)
    for attempt in range(16):  # dropout leaves tokens or conditions out of some draws; zero starts hide others
        torch.manual_seed(attempt)
        learning_loss(tokenizer, x).backward()
        with torch.no_grad():
            for parameter in tokenizer.parameters():
                if parameter.grad is not None:
                    parameter.add_(torch.randn_like(parameter) * 1e-3)
        missed = {key for key in missed if (grad := tokenizer.get_parameter(key).grad) is None or not grad.any()}
        if not missed:
            break
    assert not missed


@pytest.mark.parametrize("name", zoo.list_models())
def test_card_describes_its_model(name: str) -> None:
    entry = card(name)
    if entry.recipe is not None:
        tokenizer = build(entry.recipe, device="meta")
    else:
        from zoo import families

        family = getattr(families, entry.family)
        tokenizer = build(family.reference_recipe(entry.config), device="meta")
    assert type(tokenizer).__name__ == entry.family
    assert tokenizer.spec.modality == entry.modality
    assert parameters(tokenizer) == entry.params
    assert entry.weights.license
    assert all(metric.origin and metric.data for metric in entry.metrics)
    check_spec(tokenizer)


@pytest.mark.parametrize("name", zoo.list_models(embedded=True))
def test_embedded_model_works(name: str, tmp_path: Path) -> None:
    tokenizer = zoo.load(name)
    assert not tokenizer.training
    check_round_trip(tokenizer, tmp_path)
    weights = card(name).weights_path
    assert weights is not None and weights.stat().st_size <= 12_000_000


def test_strict_loading_names_what_is_missing() -> None:
    tokenizer = zoo.build("titok_tiny")
    state = tokenizer.state_dict()
    state.pop("encoder.latent_tokens")
    state["encoder.surplus"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"encoder\.latent_tokens.*encoder\.surplus|1 .*missing.*1 "):
        load_strict(zoo.build("titok_tiny"), state, source="a test")


@pytest.mark.parametrize("name", ["titok_tiny", "fsq_f8_tiny"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], "expects input"),
        (lambda x: x[:, :1], "expects input"),
        (lambda x: (x * 127).to(torch.uint8), "expects floats"),
        (lambda x: x.masked_fill(x > 0.9, float("nan")), "NaN"),
        (lambda x: x[..., :0], "expects input"),
    ],
)
def test_bad_input_is_named(name: str, change, message: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer = zoo.build(name).eval()
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(change(items(tokenizer)))


def test_fixed_size_is_enforced_and_any_size_restored() -> None:
    with pytest.raises(ValueError, match="expects input"):
        zoo.build("titok_tiny").encode(torch.zeros(1, 3, 33, 33))
    grid = zoo.build("fsq_f8_tiny").eval()
    for size in ((8, 8), (9, 31), (70, 100)):
        x = torch.rand(1, 3, *size) * 2 - 1
        tokens = grid.encode(x)
        assert tokens.num_tokens == -(-size[0] // 8) * -(-size[1] // 8)
        assert grid.decode(tokens).shape == x.shape


def test_tokens_of_another_model_are_refused() -> None:
    titok, grid = zoo.build("titok_tiny").eval(), zoo.build("fsq_f8_tiny").eval()
    with pytest.raises(ValueError, match="codebooks"):
        titok.decode(grid.encode(items(grid)))
    with pytest.raises(ValueError, match="steps"):
        titok.decode(titok.encode(items(titok)), steps=4)


def test_half_precision_keeps_codes_in_float32() -> None:
    tokenizer = zoo.build("fsq_f8_tiny").to(torch.bfloat16).eval()
    x = torch.rand(1, 3, 32, 48) * 2 - 1
    tokens = tokenizer.encode(x)
    output = tokenizer.decode(tokens)
    assert tokenizer.dtype == torch.bfloat16 and output.shape == x.shape
    assert tokenizer.quantizer.lookup(tokens.indices).dtype == torch.float32


def test_ragged_prefixes_decode_as_alone() -> None:
    tokenizer = zoo.build("onedpiece_tiny_128").eval()
    with torch.no_grad():
        for parameter in tokenizer.parameters():  # away from the identity start, so that attention matters
            parameter.add_(torch.randn_like(parameter) * 0.01)
        tokens = tokenizer.encode(items(tokenizer, 3))
        counts = torch.tensor([128, 5, 37])
        together = tokenizer.decode(tokens.keep(counts))
        for position, count in enumerate(counts.tolist()):
            alone = tokenizer.decode(tokens[position].keep(count))
            torch.testing.assert_close(together[position], alone[0], rtol=1e-4, atol=1e-4)


def pairs() -> Iterator[object]:
    """Every recipe with every quantizer; all but a seventh, in which each of both appears, are slow."""
    quantizers = sorted(path.stem for path in (RECIPES / "quantizer").glob("*.yaml"))
    for row, name in enumerate(TINY):
        for column, quantizer in enumerate(quantizers):
            yield pytest.param(name, quantizer, marks=[pytest.mark.slow] if (row + column) % 7 else [])


@pytest.mark.parametrize("name, quantizer", pairs())
def test_any_quantizer_goes_into_any_recipe(name: str, quantizer: str) -> None:
    node = OmegaConf.to_container(compose(name, [f"quantizer={quantizer}"]).tokenizer, resolve=True)
    assert isinstance(node, dict)
    tokenizer = build(node, device="meta")
    check_spec(tokenizer)
    assert node["quantizer"]["_target_"] == f"quantizers.{type(tokenizer.quantizer).__name__}"
    assert tokenizer.spec.dim == tokenizer.quantizer.dim
