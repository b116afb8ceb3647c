"""ResTok: merging, levels, prefixes, features, and the reference's configs and checkpoints."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch

from decoders import MaskGITDecoder, ResTokDecoder
from encoders import MaskGITEncoder, ResTokEncoder
from encoders.layers.fixed import Fixed
from encoders.layers.levels import LevelLinear, block_causal, halving_levels, repeat_levels
from encoders.layers.rotary import RotaryBlock, grid_positions, line_positions, rotary_table, rotate
from quantizers import FSQ, KL, VQ, Quantizer
from zoo.families import NestedDropout, ResTok
from zoo.objectives import Alignment, ImageObjective
from zoo.store.build import build
from zoo.store.cards import card
from zoo.tokens import Tokens

LEVELS = halving_levels(8)
PIXELS: dict[str, Any] = {"dim": 8, "channels": 32, "multipliers": (1, 2, 2), "depth": 1}
SIZE: dict[str, Any] = {"image_size": 32, "patch_size": 4, "levels": LEVELS, "width": 24, "depth": 4, "heads": 3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32) * 2 - 1


def tokenizer(quantizer: Quantizer | None = None, dropout: NestedDropout | None = None, **decoder: Any) -> ResTok:
    quantizer = quantizer or VQ(5, 24, normalize=True)
    width = 2 * quantizer.dim if isinstance(quantizer, KL) else quantizer.dim
    return ResTok(
        ResTokEncoder(**SIZE, dim=width, pixels=MaskGITEncoder(**PIXELS)),
        quantizer,
        ResTokDecoder(**SIZE, dim=quantizer.dim, pixels=MaskGITDecoder(**PIXELS), **decoder),
        dropout,
    )


def test_levels_double_and_stay_nearly_square() -> None:
    assert halving_levels(128) == [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8)]
    assert halving_levels(2) == [(1, 1), (1, 1)]
    for wrong in (0, 1, 48):
        with pytest.raises(ValueError, match=f"got {wrong}"):
            halving_levels(wrong)


def test_blocks_see_themselves_and_what_comes_before() -> None:
    expected = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(block_causal([1, 2, 1]), expected)


def test_level_maps_are_those_of_their_level() -> None:
    linear, x = LevelLinear([1, 3], 4, 6), torch.randn(2, 4, 4)
    out = linear(x)
    torch.testing.assert_close(out[:, :1], linear.maps[0](x[:, :1]))
    torch.testing.assert_close(out[:, 1:], linear.maps[1](x[:, 1:]))
    assert len(LevelLinear([1, 3], 4, 6, shared=True).maps) == 1
    assert repeat_levels(torch.tensor([[1.0], [2.0]]), [1, 3]).flatten().tolist() == [1, 2, 2, 2]


def test_rotation_depends_on_distance_alone() -> None:
    q, k = torch.randn(2, 16)

    def score(start: int) -> torch.Tensor:
        positions = torch.cat([grid_positions(2, 3, start), line_positions(1, start + 7)])
        table = rotary_table(positions, 16)
        return rotate(q.expand(7, -1), table) @ rotate(k.expand(7, -1), table).T

    torch.testing.assert_close(score(0), score(40), rtol=1e-4, atol=1e-4)
    assert torch.equal(rotate(q[None], rotary_table(line_positions(1), 16))[0], q)
    assert grid_positions(2, 2, 5).tolist() == [[5, 5], [5, 6], [6, 5], [6, 6]]
    with pytest.raises(ValueError, match="multiple of 4"):
        rotary_table(line_positions(3), 6)


def test_rows_of_a_block_are_those_of_the_whole() -> None:
    block, x = RotaryBlock(24, 3), torch.randn(2, 9, 24)
    table, mask, rows = rotary_table(grid_positions(3, 3), 8), block_causal([4, 5]), slice(3, 7)
    whole = block(x, table, mask)
    torch.testing.assert_close(block(x, table, mask[rows], rows), whole[:, rows], rtol=1e-5, atol=1e-6)
    mask = block_causal([2, 4, 1, 2])
    torch.testing.assert_close(block(x, table, mask[6:], ends=(2, 6)), block(x, table, mask), rtol=1e-5, atol=1e-6)


def test_fixed_tables_keep_dtype_and_stay_out_of_the_state() -> None:
    with torch.device("meta"):
        fixed = Fixed(lambda: torch.arange(3.0))
    assert fixed.value.tolist() == [0, 1, 2]
    assert not fixed.state_dict()
    fixed.to(torch.bfloat16).half()
    assert fixed.value.dtype == torch.float32
    assert fixed.to("meta").value.device.type == "cpu"
    assert fixed(torch.device("meta")).device.type == "meta"


def test_merging_copies_every_second_token_and_leaves_residuals() -> None:
    encoder = tokenizer().encoder
    x = torch.randn(2, 12, 24)
    out = encoder._merge(x, 8)
    assert torch.equal(out[:, :4], x[:, 0:8:2])
    assert not out[:, 4:12:2].any()
    torch.testing.assert_close(out[:, 5:12:2], x[:, 1:8:2] - x[:, 0:8:2])
    assert torch.equal(out[:, 12:], x[:, 8:])
    assert encoder.merging == (0, 1, 2)
    assert encoder.grids == [(8, 8), (8, 4), (8, 2), (8, 1)]


def test_coarse_tokens_do_not_depend_on_finer_levels() -> None:
    """Latents are causal by level, but through the pooled start: finer levels change nothing in coarser ones."""
    encoder = tokenizer().encoder.eval()
    x = images()
    with torch.no_grad():
        before = encoder(x)
        encoder.latent_level_embedding[-1] += torch.randn(24)
        after = encoder(x)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_watching_changes_no_token() -> None:
    tok = tokenizer().eval()
    x = images()
    with torch.no_grad():
        before = tok.encoder(x)
        shown: dict[str, torch.Tensor] = {}
        torch.testing.assert_close(tok.encoder(x, shown.__setitem__), before, rtol=1e-5, atol=1e-5)
    shapes = {name: tuple(value.shape) for name, value in shown.items()}
    assert shapes == {
        "global": (2, 24), "merged": (2, 24, 8, 1), "image": (2, 24, 8, 8), "image_sum": (2, 24, 8, 8)
    }  # fmt: skip
    torch.testing.assert_close(shown["global"], shown["merged"].mean((2, 3)))


@pytest.mark.parametrize("quantizer", [VQ(5, 24), FSQ([5, 5, 4]), KL(3)], ids=["vq", "fsq", "kl"])
def test_decode_of_encode_is_forward(quantizer: Quantizer) -> None:
    tok = tokenizer(quantizer).eval()
    x = images()
    with torch.no_grad():
        tokens, shown = tok.encode(x), tok(x)
        assert torch.equal(tok.decode(tokens), shown.output)
    assert shown.output.shape == x.shape
    assert shown.lengths is None
    assert tokens.scales == (1, 1, 2, 4)
    assert [part.shape[1] for part in tokens.by_scale()] == [1, 1, 2, 4]


@pytest.mark.parametrize("queries", ["learned", "sum", "mean"])
def test_every_prefix_decodes_and_ragged_ones_like_singles(queries: str) -> None:
    tok = tokenizer(queries=queries).eval()
    with torch.no_grad():
        tokens = tok.encode(images(3))
        outputs = [tok.decode(tokens.keep(count)) for count in range(1, 9)]
        assert all(not torch.equal(one, two) for one, two in pairwise(outputs))
        lengths = torch.tensor([2, 8, 5])
        ragged = tok.decode(tokens.keep(lengths))
        singles = [tok.decode(tokens[i].keep(n)) for i, n in enumerate(lengths.tolist())]
        torch.testing.assert_close(ragged, torch.cat(singles), rtol=1e-5, atol=1e-5)


def test_what_is_left_out_may_hold_anything() -> None:
    decoder, lengths = tokenizer().decoder.eval(), torch.tensor([2, 8])
    latents = torch.randn(2, 8, 5)
    spoiled = latents.clone()
    spoiled[0, 2:] = torch.nan
    with torch.no_grad():
        assert torch.equal(decoder(latents, lengths), decoder(spoiled, lengths))


def test_feature_queries_change_no_pixel_and_cost_nothing_unasked() -> None:
    tok = tokenizer(feature_token=True).eval()
    x = images()
    with torch.no_grad():
        before = tok(x)
        tok.expose("encoder.global", "decoder.patches")
        after = tok(x)
    assert not before.extras
    assert {name: tuple(value.shape) for name, value in after.extras.items()} == {
        "encoder.global": (2, 24), "decoder.patches": (2, 24, 8, 8)
    }  # fmt: skip
    torch.testing.assert_close(after.output, before.output, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"no feature 'decoder\.patches'"):
        tokenizer().expose("decoder.patches")


def test_training_aligns_both_features() -> None:
    tok = tokenizer(feature_token=True).train()
    names = ["encoder.global", "decoder.patches"]
    alignment = Alignment(names, [24, 24], pretrained=False, projector="linear", margin=0.25, weight=1.0)
    objective = ImageObjective(alignment=alignment)
    objective.prepare(tok)
    x = images()
    terms = objective(x, tok(x))
    terms["loss"].backward()
    assert terms["alignment"] > 0
    token = tok.decoder.feature_mask_token
    assert token is not None and token.grad is not None and token.grad.any()


def test_the_learned_mask_has_a_gradient_on_every_process() -> None:
    tok = tokenizer(dropout=NestedDropout("choices", choices=[4], full_probability=1.0)).train()
    tok(images()).output.sum().backward()
    grad = tok.decoder.latent_mask_token.grad
    assert grad is not None and not grad.any()


def test_published_dropout_keeps_all_tokens_in_four_of_five_draws() -> None:
    node = build("restok_l128", device="meta").config["dropout"]
    assert node == ResTok.reference_recipe(config(drop_latent_tokens=True, drop_prob=0.2))["dropout"]
    dropout = NestedDropout(**{key: value for key, value in node.items() if key != "_target_"})
    expected = {4: 0.2 / 31, 8: 0.4 / 31, 16: 0.8 / 31, 32: 1.6 / 31, 64: 3.2 / 31, 128: 0.8}
    chances = dropout.probabilities(128)
    assert {k: pytest.approx(chances[k - 1].item()) for k in expected} == expected
    drawn = Counter(dropout.draw(20_000, 128).tolist())
    assert drawn.keys() == expected.keys()
    assert all(abs(drawn[k] / 20_000 - chance) < 0.02 for k, chance in expected.items())


def test_training_replaces_what_the_draw_drops() -> None:
    tok = tokenizer(dropout=NestedDropout("choices", choices=[2])).train()
    shown = tok(images())
    assert shown.lengths is not None and shown.lengths.tolist() == [2, 2]
    assert tok.eval()(images()).lengths is None


def config(**switches: Any) -> dict[str, Any]:
    model = {**card("restok_l_128").config["model"]["vq_model"], **switches}
    return {"model": {"vq_model": model}, "dataset": {"preprocessing": {"crop_size": 256}}}


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"learnable_latent_tokens": True}, "NameError"),
        ({"is_legacy": False}, "is_legacy"),
        ({"reduction_ratio": 0.3}, "whole number"),
        ({"residual_latent_tokens": False}, "residual_latent_tokens"),
        ({"drop_latent_tokens": True, "drop_prob": 0.0}, "wrong number of lengths"),
        ({"num_latent_tokens": 100}, "power of two"),
        ({"vit_dec_model_size": "huge"}, "small, base, large"),
    ],
)
def test_impossible_reference_configs_are_refused(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResTok.reference_recipe(config(**switches))


def test_recipe_is_the_published_model_with_a_feature_query() -> None:
    ours = build("restok_l128", device="meta").config
    theirs = build(ResTok.reference_recipe(config()), device="meta")
    one, two = (
        {key: tuple(value.shape) for key, value in model.state_dict().items()}
        for model in (build(ours, device="meta"), theirs)
    )
    assert one.pop("decoder.feature_mask_token") == (1, 1024)
    assert one == two


def test_training_checkpoints_load_without_their_extras() -> None:
    state = {
        "_orig_mod.decoder.latent_mask_token": torch.ones(1, 1, 8),
        "_orig_mod.encoder.level_embedding.1": torch.ones(1, 4),
        "_orig_mod.encoder.level_embedding.0": torch.zeros(1, 4),
        "_orig_mod.decoder.feat_mask_token": torch.ones(1, 1, 4),
        "_orig_mod.vf_proj.weight": torch.ones(4, 4, 1, 1),
        "vf_proj_dec.weight": torch.ones(4, 4, 1, 1),
        "foundation_model.model.cls_token": torch.ones(1),
        "surplus": torch.ones(1),
    }
    converted = ResTok.convert(state)
    assert converted.keys() == {"decoder.latent_mask_token", "encoder.level_embedding", "surplus"}
    assert converted["encoder.level_embedding"].tolist() == [[0] * 4, [1] * 4]


def test_compiles_as_one_graph() -> None:
    tok = tokenizer().eval()
    x, lengths = images(), torch.tensor([3, 8])
    with torch.no_grad():
        z = tok.encoder(x)
        compiled = torch.compile(tok.encoder, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, z, rtol=1e-5, atol=1e-5)
        code = torch.randn(2, 8, 5)
        compiled = torch.compile(tok.decoder, fullgraph=True, backend="aot_eager")(code, lengths)
        torch.testing.assert_close(compiled, tok.decoder(code, lengths), rtol=1e-5, atol=1e-5)


def test_shapes_can_be_traced_without_values() -> None:
    tok = tokenizer().to("meta")
    assert tok.decoder(tok.encoder(images().to("meta"))).shape == (2, 3, 32, 32)


def test_runs_in_half_precision() -> None:
    tok = tokenizer().eval()
    x = images()
    with torch.no_grad():
        full = tok.decoder(tok.encoder(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = tok.decoder(tok.encoder(x))
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, full, rtol=0, atol=0.1)
        tok.to(torch.bfloat16)
        assert tok.decode(tok.encode(x)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patch_size": 5}, "multiple of patch_size"),
        ({"patch_size": 8}, "downsample"),
        ({"stages": 5}, "stages"),
        ({"depth": 5, "stages": 5}, "merged"),
        ({"levels": [(1, 1), (3, 3)]}, "divide"),
        ({"pooling": "mean"}, "pooling"),
        ({"heads": 5}, "heads"),
        ({"heads": 8, "width": 16}, "rotary"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResTokEncoder(**{**SIZE, "dim": 5, "pixels": MaskGITEncoder(**PIXELS), **wrong})


def test_parts_that_do_not_meet_are_refused() -> None:
    tok = tokenizer()
    with pytest.raises(ValueError, match=r"decoder\.dim"):
        ResTok(tok.encoder, VQ(5, 24), ResTokDecoder(**SIZE, dim=4, pixels=MaskGITDecoder(**PIXELS)))
    other = ResTokDecoder(**{**SIZE, "levels": LEVELS[:-1]}, dim=5, pixels=MaskGITDecoder(**PIXELS))
    with pytest.raises(ValueError, match="levels"):
        ResTok(tok.encoder, VQ(5, 24), other)
    with pytest.raises(ValueError, match="1 to 8"):
        tok.decoder(torch.zeros(2, 9, 5))
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\)"):
        tok.encoder(torch.zeros(2, 3, 32, 40))
    tokens = Tokens(torch.zeros(1, 9, 1, dtype=torch.int64), (24,))
    with pytest.raises(ValueError, match="1 to 8 tokens, got 9"):
        tok.decode(tokens)
