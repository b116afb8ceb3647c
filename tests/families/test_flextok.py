"""FlexTok: registers of any length, guidance in one call, and what training draws."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import zoo
from decoders import AdaptiveProjected, ClassifierFree, FlexTokDecoder, RectifiedFlow
from encoders import FlexTokEncoder
from zoo.families import FlexTok, NestedDropout
from zoo.families.flextok_reference import reference_recipe
from zoo.objectives import FlowObjective
from zoo.store.build import build, instantiate
from zoo.store.cards import card
from zoo.training.run import resolve


def shaken(tokenizer: FlexTok) -> FlexTok:
    """Weights large enough for registers, times and positions to matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in (tokenizer.encoder, tokenizer.decoder):
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> FlexTok:
    torch.manual_seed(0)
    built = zoo.build("flextok_tiny")
    assert isinstance(built, FlexTok)
    return shaken(built).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1


def pixel_node(**changes: Any) -> dict[str, Any]:
    """A FlexTok that paints pixels: 16 x 16 images, 4 x 4 patches."""
    shared = {"channels": 3, "grid": [4, 4], "patch_size": 4, "num_tokens": 8, "dim": 6, "head_dim": 16, "width": 32}
    return {
        "_target_": "zoo.families.FlexTok",
        "image_size": 16,
        "encoder": {"_target_": "encoders.FlexTokEncoder", **shared, "depth": 2},
        "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 8, 8, 5, 5, 5]},
        "decoder": {"_target_": "decoders.FlexTokDecoder", **shared, "depth": 2},
        "steps": 3,
        **changes,
    }


def pixels(**changes: Any) -> FlexTok:
    torch.manual_seed(0)
    built = build(pixel_node(**changes))
    assert isinstance(built, FlexTok)
    return shaken(built).eval()


@torch.no_grad()
def test_counted_registers_equal_written_out_ones(tokenizer: FlexTok) -> None:
    decoder, lengths = tokenizer.decoder, torch.tensor([1, 17, 32])
    latents = torch.randn(3, 32, 6)
    noised, modulations = torch.randn(3, 16, 8, 8), decoder.modulations(torch.tensor([0.2, 0.5, 0.9]))
    counted = decoder.registers(latents, lengths)
    assert counted.tokens.shape[1] == 33 and decoder.registers(latents, lengths.clamp_max(4)).tokens.shape[1] == 5
    (short,) = decoder(noised, modulations, counted)
    (full,) = decoder(noised, modulations, decoder.training_registers(latents, lengths))
    torch.testing.assert_close(short, full, rtol=1e-4, atol=1e-5)
    (null,) = decoder(noised, modulations, decoder.null(3))
    dropped = torch.ones(3, dtype=torch.bool)
    (written,) = decoder(noised, modulations, decoder.training_registers(latents, lengths, dropped))
    torch.testing.assert_close(null, written, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(null, short, atol=1e-3)


LEVELS = [[1, 1], [1, 1], [1, 2], [2, 2]]


def laid_out(**changes: Any) -> FlexTok:
    """As `pixels`, with tokens in levels."""
    node = pixel_node(**changes)
    for part in ("encoder", "decoder"):
        node[part] |= {"levels": LEVELS, "gains": [1.0, 2.0, 2.0, 4.0]}
    torch.manual_seed(0)
    built = build(node)
    assert isinstance(built, FlexTok)
    return shaken(built).eval()


@torch.no_grad()
def test_the_sketch_undoes_what_the_encoder_starts_with() -> None:
    node = pixel_node(quantizer={"_target_": "quantizers.Identity", "dim": 6})
    for part in ("encoder", "decoder"):
        node[part] |= {"levels": LEVELS, "gains": [1.0, 2.0, 2.0, 4.0]}
    fresh = build(node)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 2, 2) * 2 - 1, size=16)
    for steps in (1, 4):
        painted = fresh.decode(fresh.encode(x), steps=steps)
        if steps == 1:
            torch.testing.assert_close(painted, x, rtol=1e-4, atol=1e-5)
        assert (painted - x).square().mean() < 0.7**2


@torch.no_grad()
def test_levels_place_the_code_in_the_picture() -> None:
    tokenizer = laid_out()
    decoder, x = tokenizer.decoder, torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    tokens = tokenizer.encode(x)
    latents = tokenizer.code_latents(tokens)
    lengths = torch.tensor([1, 3, 8])
    counted = decoder.registers(latents, lengths)
    written = decoder.training_registers(latents, lengths)
    assert counted.layout is not None and written.layout is not None
    torch.testing.assert_close(counted.layout, written.layout)
    assert counted.layout[1].unique(dim=0).shape[0] == 2, "of the level (1, 2) one token is there: two kinds of places"
    assert decoder.null(3).layout is None
    dropped = decoder.training_registers(latents, lengths, torch.tensor([True, False, False])).layout
    assert dropped is not None and not dropped[0].any() and dropped[1].any()
    together = tokenizer.decode(tokens.keep(lengths), guidance=2.0)
    for number, length in enumerate(lengths.tolist()):
        alone = tokenizer.decode(tokens[number].keep(length), guidance=2.0)
        torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_levels_start_as_a_thumbnail() -> None:
    node = pixel_node()
    node["encoder"]["levels"] = LEVELS
    encoder = instantiate(node["encoder"])
    encoder.proj.weight.zero_()
    x = torch.rand(2, 3, 16, 16)
    means = torch.nn.functional.avg_pool2d(x, 8).flatten(2).mT / 2  # (2, 4, 3): the last level, half of each mean
    coarse = x.mean((2, 3))[:, None] / 2
    latents = encoder(x)
    torch.testing.assert_close(latents[:, :1, :3], coarse)
    torch.testing.assert_close(latents[:, 1:2].abs().amax(), torch.tensor(0.0), atol=1e-6, rtol=0)
    halves = means.unflatten(1, (2, 2)).mean(1)  # columns
    torch.testing.assert_close(latents[:, 2:4, :3], halves - coarse)
    torch.testing.assert_close(latents[:, 4:, :3], means - halves.repeat(1, 2, 1))
    assert not latents[..., 3:].any()


def test_levels_fit_one_size() -> None:
    tokenizer = laid_out()
    with pytest.raises(ValueError, match="expects input"):
        tokenizer.encode(torch.zeros(1, 3, 8, 8))
    for part in ("encoder", "decoder"):
        node = pixel_node()[part] | {"levels": [[1, 1], [2, 2]]}
        with pytest.raises(ValueError, match="have 5 tokens, not num_tokens=8"):
            instantiate(node)
    node = pixel_node()
    node["encoder"]["levels"] = LEVELS
    with pytest.raises(ValueError, match="one positive number for each of 4 levels"):
        instantiate(node["encoder"] | {"gains": [1.0, -1.0, 2.0, 4.0]})
    with pytest.raises(ValueError, match="levels differ"):
        build(node)


@torch.no_grad()
def test_what_is_left_out_may_hold_anything(tokenizer: FlexTok) -> None:
    latents, lengths = torch.randn(2, 32, 6), torch.tensor([3, 9])
    spoiled = latents.clone()
    spoiled[0, 3:], spoiled[1, 9:] = float("nan"), 1e9
    first = tokenizer.sample(latents, lengths, (64, 64), steps=2)
    assert torch.equal(first, tokenizer.sample(spoiled, lengths, (64, 64), steps=2))


@torch.no_grad()
def test_conditions_in_one_pass_equal_passes_of_their_own(tokenizer: FlexTok) -> None:
    decoder = tokenizer.decoder
    noised, modulations = torch.randn(2, 16, 8, 8), decoder.modulations(torch.tensor([0.3]))
    streams = (decoder.registers(torch.randn(2, 7, 6)), decoder.null(2), decoder.registers(torch.randn(2, 32, 6)))
    together = decoder(noised, modulations, *streams)
    for output, stream in zip(together, streams, strict=True):
        torch.testing.assert_close(output, decoder(noised, modulations, stream)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [None, 3.0, ClassifierFree(2.0)])
def test_mixed_lengths_decode_as_alone(tokenizer: FlexTok, images: Tensor, guidance: Any) -> None:
    tokens, lengths = tokenizer.encode(images), torch.tensor([32, 1, 11])
    together = tokenizer.decode(tokens.keep(lengths), steps=3, guidance=guidance)
    for position, count in enumerate(lengths.tolist()):
        alone = tokenizer.decode(tokens[position].keep(count), steps=3, guidance=guidance)
        torch.testing.assert_close(together[position], alone[0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_sampling_by_hand_equals_decode(tokenizer: FlexTok, images: Tensor) -> None:
    """Euler with classifier-free guidance, step by step."""
    tokens, noise = tokenizer.encode(images).keep(5), torch.randn(3, 16, 8, 8)
    decoder, x = tokenizer.decoder, noise
    latents = tokenizer.quantizer.lookup(tokens.indices)
    for i in range(40, 0, -1):
        modulations = decoder.modulations(torch.tensor([i / 40]))
        (c,), (u,) = (decoder(x, modulations, r) for r in (decoder.registers(latents), decoder.null(3)))
        x = x - (u + 3 * (c - u)) / 40
    output = tokenizer.decode(tokens, steps=40, guidance=ClassifierFree(3.0), noise=noise)
    torch.testing.assert_close(output, tokenizer.to_image(x), rtol=1e-3, atol=2e-4)


@torch.no_grad()
def test_decoding_is_a_function_until_a_generator_is_given(tokenizer: FlexTok, images: Tensor) -> None:
    tokens = tokenizer.encode(images)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = tokenizer.decode(tokens, steps=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(tokenizer.decode(tokens, steps=2), first)
    drawn = [tokenizer.decode(tokens, steps=2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    noise = torch.randn(1, 16, 8, 8)
    given = [tokenizer.decode(tokens, noise=start) for start in (noise, noise.expand(3, -1, -1, -1))]
    assert torch.equal(given[0], given[1])
    assert torch.equal(tokenizer.decode(tokens, steps=2, guidance=1), first)
    assert not torch.equal(tokenizer.decode(tokens, steps=2, guidance=4), first)
    assert not torch.allclose(tokenizer.decode(tokens, steps=9), first)


def test_wrong_sampling_is_named(tokenizer: FlexTok, images: Tensor) -> None:
    tokens = tokenizer.encode(images)
    with pytest.raises(ValueError, match="at least 1"):
        tokenizer.decode(tokens, steps=0)
    with pytest.raises(ValueError, match=r"\(3, 16, 8, 8\), got \(3, 16, 4, 4\)"):
        tokenizer.decode(tokens, noise=torch.zeros(3, 16, 4, 4))
    with pytest.raises(ValueError, match="guidance is a scale"):
        tokenizer.decode(tokens, guidance="strong")  # type: ignore[arg-type]
    titok = zoo.build("titok_tiny").eval()
    code = titok.encode(images)
    for option in ({"guidance": 2.0}, {"noise": torch.zeros(1)}, {"steps": 3}):
        with pytest.raises(ValueError, match=f"decodes in one step; {next(iter(option))}="):
            titok.decode(code, **option)  # type: ignore[arg-type]


@torch.no_grad()
def test_registers_see_only_those_before_them(tokenizer: FlexTok, images: Tensor) -> None:
    clean = tokenizer.to_map(images)
    before = tokenizer.encoder(clean)
    kept = tokenizer.encoder.registers.clone()
    tokenizer.encoder.registers[20:] = torch.randn(12, 128)  # a constant would be lost in the norms
    after = tokenizer.encoder(clean)
    tokenizer.encoder.registers.copy_(kept)
    torch.testing.assert_close(after[:, :20], before[:, :20])
    assert (after[:, 20:] - before[:, 20:]).abs().amax((0, 2)).min() > 1e-3


@torch.no_grad()
def test_images_of_other_sizes(tokenizer: FlexTok) -> None:
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    tokens = tokenizer.encode(x)
    assert tokens.num_tokens == 32
    assert tokenizer.decode(tokens, steps=1).shape == x.shape
    for shape in ((2, 3, 40, 48), (2, 3, 80, 64), (2, 1, 64, 64), (3, 64, 64), (2, 3, 0, 64)):
        with pytest.raises(ValueError, match="expects input"):
            tokenizer.encode(torch.zeros(shape))


@torch.no_grad()
def test_the_posterior_is_drawn_where_that_is_wanted(tokenizer: FlexTok, images: Tensor) -> None:
    mean = tokenizer.to_map(images)
    tokenizer.sample_posterior = True
    try:
        fixed, drawn = tokenizer.to_map(images), tokenizer.to_map(images, torch.Generator().manual_seed(3))
        again = tokenizer.encode(images, generator=torch.Generator().manual_seed(3))
        assert torch.equal(fixed, tokenizer.to_map(images)) and not torch.equal(fixed, mean)
        torch.testing.assert_close(fixed[1:2], tokenizer.to_map(images[1:2]), rtol=1e-4, atol=1e-5)
        assert not torch.equal(drawn, fixed)
        assert again.equal(tokenizer.encode(images, generator=torch.Generator().manual_seed(3)))
    finally:
        tokenizer.sample_posterior = False
    assert torch.equal(tokenizer.to_map(images), mean)


def test_training_forward(images: Tensor) -> None:
    tokenizer = zoo.build("flextok_tiny").train()
    assert isinstance(tokenizer, FlexTok) and tokenizer.vae is not None
    assert not tokenizer.vae.training and not any(p.requires_grad for p in tokenizer.vae.parameters())
    torch.manual_seed(3)
    result = tokenizer(images)
    assert set(result.extras) == {"velocity", "target"}
    assert result.extras["velocity"].shape == result.extras["target"].shape == result.output.shape == (3, 16, 8, 8)
    terms = FlowObjective()(images, result)
    torch.testing.assert_close(terms["flow"], (result.extras["velocity"] - result.extras["target"]).square().mean())
    assert 1 < terms["flow"] < 4  # a fresh network says nothing: var(noise) + var(latents)
    terms["loss"].backward()
    assert all(p.grad is not None for p in tokenizer.parameters() if p.requires_grad)
    tokenizer.eval()
    with torch.no_grad():
        first, again = tokenizer(images), tokenizer(images)
    assert torch.equal(first.extras["velocity"], again.extras["velocity"])
    assert first.output.shape == images.shape and torch.isfinite(FlowObjective()(images, first)["loss"])


def test_training_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths in powers of two, one in five without condition, times of the mode distribution."""
    tokenizer, seen = pixels(dropout={"_target_": "zoo.families.NestedDropout", "schedule": "pow2"}).train(), []

    def registers(latents: Tensor, lengths: Tensor, dropped: Tensor) -> Any:
        seen.append((lengths, dropped))
        return FlexTokDecoder.training_registers(tokenizer.decoder, latents, lengths, dropped)

    monkeypatch.setattr(tokenizer.decoder, "training_registers", registers)
    torch.manual_seed(0)
    with torch.no_grad():
        result = tokenizer(torch.rand(4000, 3, 16, 16))
    lengths, dropped = seen[0]
    assert lengths.bincount(minlength=9).nonzero().flatten().tolist() == [1, 2, 4, 8]
    assert (lengths.bincount(minlength=9)[[1, 2, 4, 8]] / 4000 - 0.25).abs().max() < 0.03
    assert abs(dropped.float().mean() - 0.2) < 0.02
    assert result.lengths is not None and torch.equal(result.lengths, lengths)


def test_every_condition_reaches_the_velocity_of_its_item_only() -> None:
    tokenizer = pixels()
    latents = torch.randn(3, 8, 6, requires_grad=True)
    lengths, dropped = torch.tensor([8, 4, 8]), torch.tensor([False, False, True])
    registers = tokenizer.decoder.training_registers(latents, lengths, dropped)
    modulations = tokenizer.decoder.modulations(torch.tensor([0.5]))
    tokenizer.decoder(torch.randn(3, 3, 16, 16), modulations, registers)[0].square().sum().backward()
    assert latents.grad is not None
    reached = latents.grad.abs().sum(-1) > 0
    assert reached[0].all() and reached[1].tolist() == [True] * 4 + [False] * 4 and not reached[2].any()


@torch.no_grad()
def test_pixel_space_and_prediction_of_the_clean_image() -> None:
    flow = {"_target_": "decoders.RectifiedFlow", "prediction": "clean"}
    tokenizer, x = pixels(flow=flow, sampler="heun", guidance=2.0), torch.rand(2, 3, 16, 16) * 2 - 1
    assert tokenizer.flow == RectifiedFlow(prediction="clean") and tokenizer.guidance == AdaptiveProjected(2.0)
    assert torch.equal(tokenizer.to_map(x), x)
    output = tokenizer.decode(tokenizer.encode(x))
    assert output.shape == x.shape and torch.isfinite(output).all()
    with pytest.raises(ValueError, match="no VAE"):
        tokenizer.adopt(zoo.build("kl_f8_tiny"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition_dropout": 1.0}, "condition_dropout lies"),
        ({"sampler": "rk4"}, "sampler is one of"),
        ({"image_size": 24}, "at most 16"),
        ({"quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 8]}}, "widths in front"),
        ({"vae": {**pixel_node()}}, "quantizers.KL"),
    ],
)
def test_parts_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels(**changes)


def test_the_vae_can_come_apart(tokenizer: FlexTok, tmp_path: Any) -> None:
    vae = zoo.build("kl_f8_tiny")
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(std=0.01)
    folder, fresh = vae.save_pretrained(tmp_path / "vae"), zoo.build("flextok_tiny")
    FlowObjective(vae=str(folder)).prepare(fresh, fresh=False)
    assert isinstance(fresh, FlexTok) and fresh.vae is not None
    assert not torch.equal(fresh.vae.encoder.patch.weight, vae.encoder.patch.weight)
    FlowObjective(vae=str(folder)).prepare(fresh)
    assert all(torch.equal(a, b) for a, b in zip(fresh.vae.parameters(), vae.parameters(), strict=True))
    with pytest.raises(ValueError, match="VAE does not fit"):
        fresh.adopt(zoo.build("fsq_f8_tiny"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this is a TiTok"):
        FlowObjective(vae=str(folder)).prepare(zoo.build("titok_tiny"))
    with pytest.raises(ValueError, match="flow decoder"):
        titok = zoo.build("titok_tiny")
        x = torch.rand(1, 3, 64, 64)
        FlowObjective()(x, titok(x))


def test_features_for_semantic_alignment(images: Tensor) -> None:
    tokenizer = zoo.build("flextok_tiny").train()
    assert tokenizer.features == {f"decoder.{number}": 128 for number in range(1, 5)}
    tokenizer.expose("decoder.1")
    result = tokenizer(images)
    assert set(result.extras) == {"velocity", "target", "decoder.1"}
    assert result.extras["decoder.1"].shape == (3, 128, 4, 4)


def test_alignment_learns_with_the_flow(images: Tensor) -> None:
    config = resolve("flextok_tiny", ["objective=flow_aligned"])
    tokenizer, objective = zoo.build(config["tokenizer"]).train(), instantiate(config["objective"])
    objective.prepare(tokenizer)
    terms = objective(images, tokenizer(images))
    torch.testing.assert_close(terms["loss"], terms["flow"] + 0.5 * terms["alignment"])
    terms["alignment"].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert tokenizer.decoder.patch_embedding.weight.grad.any()


def test_networks_compile_into_one_graph(tokenizer: FlexTok, images: Tensor) -> None:
    with torch.no_grad():
        clean, decoder = tokenizer.to_map(images), tokenizer.decoder
        encoder = torch.compile(tokenizer.encoder, backend="eager", fullgraph=True)
        torch.testing.assert_close(encoder(clean), tokenizer.encoder(clean))
        modulations = decoder.modulations(torch.tensor([0.5]))
        streams = (decoder.registers(torch.randn(3, 9, 6)), decoder.null(3))
        compiled = torch.compile(decoder, backend="eager", fullgraph=True)
        outputs = compiled(clean, modulations, *streams)
        for output, wanted in zip(outputs, decoder(clean, modulations, *streams), strict=True):
            torch.testing.assert_close(output, wanted)


@torch.no_grad()
def test_half_precision(images: Tensor) -> None:
    tokenizer = shaken(zoo.build("flextok_tiny")).eval()  # type: ignore[arg-type]
    tokens = tokenizer.encode(images)
    wanted = tokenizer.decode(tokens.keep(6), steps=2, guidance=2.0)
    output = tokenizer.to(torch.bfloat16).decode(tokens.keep(6), steps=2, guidance=2.0)
    assert (output.float() - wanted).abs().mean() < 0.1


def test_reference_config() -> None:
    config = card("flextok_d12_d12_in1k").config

    def changed(path: str, value: Any) -> dict[str, Any]:
        copy = json.loads(json.dumps(config))
        *parents, last = path.split("/")
        node = copy
        for name in parents:
            node = node[name]
        node[last] = value
        return copy

    sampling = "decoder/module_dict/dec_nested_dropout/size_sampling_mode"
    node = reference_recipe(changed(sampling, "uniform_pow2"))["dropout"]
    dropout = NestedDropout(**{key: value for key, value in node.items() if key != "_target_"})
    draws = torch.randint(1, 257, (1_000_000,), generator=torch.Generator().manual_seed(0))
    rounded = 2 ** draws.float().log2().ceil().long()
    wanted = rounded.bincount(minlength=257)[1:] / len(draws)
    torch.testing.assert_close(dropout.probabilities(256).float(), wanted.float(), atol=2e-3, rtol=0)
    for path, value in (
        (sampling, "sometimes"),
        ("encoder/module_dict/enc_seq_packer/mask_mode", "full"),
        ("encoder/module_dict/enc_patch_emb/patch_sizes", [2, 4]),
        ("decoder/module_dict/dec_registers_posemb_module/posemb_type", "sincos"),
    ):
        with pytest.raises(ValueError, match="FlexTok supports"):
            reference_recipe(changed(path, value))
    with pytest.raises(ValueError, match="of this family"):
        FlexTok.from_reference({}, {})


def test_bad_maps_are_named(tokenizer: FlexTok) -> None:
    with pytest.raises(ValueError, match="FlexTokEncoder expects"):
        tokenizer.encoder(torch.zeros(1, 16, 9, 8))
    decoder = tokenizer.decoder
    with pytest.raises(ValueError, match="FlexTokDecoder expects"):
        decoder(torch.zeros(1, 16, 10, 8), decoder.modulations(torch.ones(1)), decoder.null(1))
    with pytest.raises(ValueError, match="1 to 32"):
        decoder.registers(torch.zeros(1, 33, 6))
    with pytest.raises(ValueError, match="head_dim"):
        FlexTokEncoder(channels=3, grid=(2, 2), width=32, depth=1, num_tokens=4, dim=2, head_dim=24)


@pytest.mark.parametrize("name", zoo.list_models("flextok_*"))
def test_licence_is_shown(name: str) -> None:
    from zoo.cli import app

    weights = card(name).weights
    if weights.hub is not None and weights.hub.startswith("EPFL-VILAB"):
        assert weights.research_only and "research only" in card(name).notes
        shown = CliRunner().invoke(app, ["info", name])
        assert shown.exit_code == 0 and "apple-amlr, not an open licence" in shown.stdout
