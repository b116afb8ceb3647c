"""Published generators: every card and recipe of a known size builds what its file holds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from omegaconf import OmegaConf

import zoo
from zoo import families
from zoo.generators import RAR, GuidanceSchedule, MaskGIT, Vocabulary
from zoo.generators.pipeline import build, load
from zoo.generators.shared_ids import SharedIds
from zoo.store.build import compose
from zoo.store.cards import card

FAMILIES: Mapping[str, type[SharedIds]] = {"MaskGIT": MaskGIT, "RAR": RAR}
PUBLISHED = [name for name in zoo.list_models(kind="generator") if card(name).weights.layout == "reference"]
SIZES = [name for name in zoo.list_recipes(kind="generator") if name.startswith(("maskgit_", "rar_"))]


@pytest.mark.parametrize("name", PUBLISHED)
def test_card_describes_its_generator(name: str) -> None:
    item = card(name)
    generator = build(FAMILIES[item.family].reference_recipe(item.config), device="meta")
    assert sum(parameter.numel() for parameter in generator.parameters()) == item.params
    assert item.weights.license and all(metric.origin and metric.data for metric in item.metrics)
    tokenizer = card(item.config["tokenizer"])
    family = getattr(families, tokenizer.family)
    spec = zoo.build(family.reference_recipe(tokenizer.config), device="meta").spec
    assert tuple(generator.vocabulary.codebook_sizes) == spec.codebook_sizes
    assert (generator.vocabulary.num_tokens, generator.vocabulary.order) == (spec.num_tokens, spec.order)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_is_that_of_the_card(name: str) -> None:
    """The recipe, with the vocabulary of the tokens, builds the published net and samples as published."""
    recipe = name.removesuffix("_imagenet")
    node = OmegaConf.to_container(compose(recipe, ["data.tokens=none"]).generator, resolve=True)
    item = card(name)
    published = FAMILIES[item.family].reference_recipe(item.config)
    ours = build({**node, "vocabulary": published["vocabulary"], "classes": 1000}, device="meta")  # type: ignore[dict-item]
    theirs = build(published, device="meta")
    shapes = [{key: tensor.shape for key, tensor in one.state_dict().items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for setting in ("temperature", "guidance", "class_dropout", *(("steps",) if item.family == "MaskGIT" else ())):
        assert getattr(ours, setting) == getattr(theirs, setting), setting


def test_every_size_has_a_card() -> None:
    assert {name.removesuffix("_imagenet") for name in PUBLISHED} == {name for name in SIZES if "tiny" not in name}


def test_guidance_of_both_conventions() -> None:
    """Linear scale 4.5 on top of the condition is 5.5 from the unconditional."""
    of_l32 = build(MaskGIT.reference_recipe(card("maskgit_titok_l32_imagenet").config), device="meta")
    assert of_l32.guidance == GuidanceSchedule(5.5, "linear")  # type: ignore[union-attr]
    of_rar = build(RAR.reference_recipe(card("rar_b_imagenet").config), device="meta")
    assert of_rar.guidance == GuidanceSchedule(16.0, "power_cosine", power=2.75)  # type: ignore[union-attr]


@pytest.mark.parametrize("family", [MaskGIT, RAR])
def test_saved_and_loaded_generates_the_same(family: type[SharedIds], tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    node = {
        "_target_": f"zoo.generators.{family.__name__}",
        "vocabulary": {"_target_": "zoo.generators.Vocabulary", "codebook_sizes": [16], "num_tokens": 6},
        "classes": 3,
        "guidance": {"_target_": "zoo.generators.GuidanceSchedule", "scale": 2.0, "shape": "linear"},
    } | {"width": 16, "depth": 2, "heads": 2, "hidden": 32}
    generator = build(node)
    assert isinstance(generator.vocabulary, Vocabulary)
    generator.save_pretrained(tmp_path)
    labels = torch.tensor([0, 1, 2])
    drawn = [one.generate(labels, generator=torch.Generator().manual_seed(1)) for one in (generator, load(tmp_path))]
    assert torch.equal(*drawn)


def test_a_config_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="generator"):
        RAR.from_reference({"model": {}}, {})
