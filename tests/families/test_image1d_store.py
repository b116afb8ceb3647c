"""Cards and recipes of the 1D image families describe the same models, and those are the published ones."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from golden import Manifest, manifests
from omegaconf import OmegaConf

import zoo.families
from zoo.store.build import build, compose
from zoo.store.cards import Card, card, cards, list_recipes
from zoo.tokenizer import Tokenizer

FAMILIES = ("MaskGITVQGAN", "OneDPiece", "TiTok")
PUBLISHED = [item for item in cards() if item.family in FAMILIES and item.weights.layout == "reference"]
RECIPES = [name for name in list_recipes() if name.startswith(("maskgit_vqgan", "onedpiece_", "titok_"))]


@cache
def from_card(name: str) -> Tokenizer:
    item = card(name)
    return build(getattr(zoo.families, item.family).reference_recipe(item.config), device="meta")


@cache
def from_recipe(name: str) -> Tokenizer:
    return build(name, device="meta")


def shapes(tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tokenizer.state_dict().items()}


@pytest.mark.parametrize("item", PUBLISHED, ids=lambda item: item.name)
def test_card_builds_as_many_parameters_as_it_says(item: Card) -> None:
    tokenizer = from_card(item.name)
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) == item.params
    assert type(tokenizer).__name__ == item.family


@pytest.mark.parametrize(
    "manifest", [m for m in manifests() if m.family in ("maskgit_vqgan", "one_d_piece", "titok")], ids=lambda m: m.id
)
def test_card_of_every_manifest(manifest: Manifest) -> None:
    hub = manifest.content["hub"].partition(":")[0]
    (item,) = [
        item
        for item in PUBLISHED
        if item.weights.hub == hub and (item.family == "MaskGITVQGAN") == (manifest.family == "maskgit_vqgan")
    ]
    family = getattr(zoo.families, item.family)
    assert family.reference_recipe(item.config) == family.reference_recipe(manifest.config)
    assert item.weights.license == manifest.content["license"]
    published = [value for value in manifest.content["published"].values() if isinstance(value, float)]
    assert [metric.value for metric in item.metrics if published] == published
    if "known_tokens" in manifest.content:
        assert list(item.known_answers[0].tokens) == manifest.content["known_tokens"]["tokens"]


@pytest.mark.parametrize("item", PUBLISHED, ids=lambda item: item.name)
def test_recipe_of_every_card_builds_the_published_model(item: Card) -> None:
    """Stage 2 where there is one; its first stage has the same keys, so weights pass from one to the other."""
    name = item.name.removesuffix("_imagenet").removesuffix("_imagenet_f16")
    stages = [recipe for recipe in (name, f"{name}_stage2") if recipe in RECIPES]
    assert stages
    for recipe in stages:
        assert shapes(from_recipe(recipe)) == shapes(from_card(item.name))


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("_stage2")])
def test_stages_freeze_what_they_do_not_learn(name: str) -> None:
    first, second = (compose(recipe) for recipe in (name.removesuffix("_stage2"), name))
    assert second.init_from == f"runs/{name.removesuffix('_stage2')}/model"
    assert first.tokenizer.proxy_training
    assert not second.tokenizer.proxy_training
    assert OmegaConf.to_container(second.freeze) == ["encoder", "quantizer"]
    assert second.objective.quantizer == 0
    names = [name for name, _ in from_recipe(name).named_parameters()]
    for prefix in [*first.freeze, *second.freeze]:
        assert any(name.startswith(f"{prefix}.") or name == prefix for name in names)


@pytest.mark.parametrize("name", ["titok_tiny", "onedpiece_tiny"])
def test_tiny_recipes_learn(name: str) -> None:
    torch.manual_seed(0)
    tokenizer = build(name).train()
    x = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4), size=tokenizer.spec.input_shape[1:]) * 2 - 1
    optimizer = torch.optim.AdamW(tokenizer.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        shown = tokenizer(x)
        loss = (shown.output - x).abs().mean() + shown.quantized.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_full_size_l32_encodes_and_decodes() -> None:
    """641 million random parameters, 2.6 GB."""
    family = zoo.families.TiTok
    torch.manual_seed(0)
    tokenizer = build(family.reference_recipe(card("titok_l32_imagenet").config)).eval()
    x = torch.rand(1, 3, 256, 256) * 2 - 1
    with torch.inference_mode():
        tokens = tokenizer.encode(x)
        image = tokenizer.decode(tokens)
    assert tokens.indices.shape == (1, 32, 1)
    assert image.shape == (1, 3, 256, 256)
    assert torch.isfinite(image).all()
    assert tokens.bits().tolist() == [384.0]
