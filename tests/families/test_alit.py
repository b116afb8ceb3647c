"""ALIT: roll-outs, their lengths, halting, and both stages of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import cases, manifests
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

import zoo.families
from zoo.families import ALIT, MaskGITVQGAN
from zoo.families.alit import settled
from zoo.objectives import ProxyObjective
from zoo.store.build import build, compose
from zoo.store.cards import card
from zoo.store.weights import read_state

GRID = {"dim": 32, "channels": 32, "multipliers": [1, 1, 1, 2], "depth": 1}


def node(**changes: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(compose("alit_tiny").tokenizer, resolve=True)
    assert isinstance(plain, dict)
    return {**plain, **changes}


def tokenizer(**changes: Any) -> ALIT:
    torch.manual_seed(0)
    built = build(node(**changes)).eval()
    assert isinstance(built, ALIT)
    with torch.no_grad():  # away from the start, where all tokens are much alike
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return built


def teacher() -> MaskGITVQGAN:
    torch.manual_seed(1)
    built = build(
        {
            "_target_": "zoo.families.MaskGITVQGAN",
            "image_size": 64,
            "encoder": {"_target_": "encoders.MaskGITEncoder", **GRID},
            "quantizer": {"_target_": "quantizers.VQ", "dim": 32, "codebook_size": 64},
            "decoder": {"_target_": "decoders.MaskGITDecoder", **GRID},
        }
    )
    assert isinstance(built, MaskGITVQGAN)
    return built


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_lengths_are_multiples_of_a_rollout() -> None:
    alit, x = tokenizer(), pictures()
    with torch.no_grad():
        codes = {count: alit.encode(x, tokens=count) for count in (8, 16, 24, 32)}
        assert [tokens.num_tokens for tokens in codes.values()] == [8, 16, 24, 32]
        assert alit.encode(x).equal(codes[32])
        assert alit.decode(codes[8]).shape == x.shape
        # A roll-out rewrites the tokens before it: a shorter code is no prefix.
        assert not torch.equal(alit.encoder(x, 8), alit.encoder(x, 16)[:, :8])
    for wrong in (0, 12, 40):
        with pytest.raises(ValueError, match="tokens must be a multiple of 8 up to 32"):
            alit.encode(x, tokens=wrong)


def test_batch_equals_one_by_one() -> None:
    alit, x = tokenizer(), pictures(3)
    with torch.no_grad():
        together = alit.decode(alit.encode(x, tokens=16))
        for number in range(3):
            alone = alit.decode(alit.encode(x[number : number + 1], tokens=16))
            torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-4)


def test_halting_is_off_and_seeded() -> None:
    alit, x = tokenizer(), pictures()
    with torch.no_grad():
        before = torch.get_rng_state()
        plain = alit.encode(x)
        assert torch.equal(torch.get_rng_state(), before)

        def halted(threshold: float, seed: int) -> zoo.Tokens:
            return alit.encode(x, halting=threshold, generator=torch.Generator().manual_seed(seed))

        assert halted(0.0, 3).equal(halted(0.0, 3))
        assert torch.equal(torch.get_rng_state(), before)
        assert not halted(0.0, 3).equal(plain)
        assert halted(1.1, 3).equal(plain)


def test_settled_follows_the_probability_of_the_right_code() -> None:
    probabilities = torch.tensor([0.2, 0.5, 0.6, 0.9])
    logits = torch.stack([probabilities.log(), (1 - probabilities).log()])[None, :, None].expand(5000, -1, -1, -1)
    codes = torch.zeros(5000, 1, 4, dtype=torch.int64)
    share = settled(logits, codes, 0.55, torch.Generator().manual_seed(0)).float().mean(0)
    assert share[:2].tolist() == [0, 0]
    torch.testing.assert_close(share[2:], probabilities[2:], atol=0.03, rtol=0)


def test_forgotten_patches_hold_the_mask_token() -> None:
    encoder = tokenizer().encoder
    sequence = torch.randn(2, 1 + 64 + 8, 128)
    done = torch.zeros(2, 64, dtype=torch.bool)
    done[0, 5] = True
    changed = encoder.forget(sequence, done)
    torch.testing.assert_close(changed[0, 6], encoder.mask_token[0] + encoder.position_embedding[6])
    changed[0, 6] = sequence[0, 6]
    assert torch.equal(changed, sequence)


def test_first_stage_sums_over_all_rollouts() -> None:
    alit, grid, x = tokenizer(proxy_training=True, halting=None), teacher(), pictures()
    objective = ProxyObjective(grid, smoothing=0.1, code=1.0, passes=[2.5, 2.0, 1.5, 1.25])
    objective.prepare(alit)
    with torch.no_grad():
        assert torch.equal(alit.decoder.codebook, grid.quantizer.lookup(torch.arange(64)[None, :, None])[0])
        target = grid.encode(x).indices.view(2, 8, 8)
        result = alit.train()(x)
        logits = result.extras["proxy_logits"]
        assert logits.shape == (4, 2, 64, 8, 8)
        assert torch.equal(result.extras["proxy_codes"], target)
        alit.eval()
        expected = torch.zeros(())
        for weight, count, item in zip((2.5, 2.0, 1.5, 1.25), (8, 16, 24, 32), logits, strict=True):
            quantized = alit.quantizer(alit.encoder(x, count))
            torch.testing.assert_close(item, alit.decoder.logits(quantized.latents), rtol=1e-4, atol=1e-4)
            log = item.log_softmax(1)
            right = log.gather(1, target[:, None])[:, 0]
            vectors = torch.einsum("bkhw,kd->bhwd", item.softmax(1), alit.decoder.codebook)
            expected += weight * -(0.9 * right + 0.1 * log.mean(1)).mean() + quantized.loss
            expected += (vectors - alit.decoder.codebook[target]).square().mean()
    terms = objective(x, result)
    torch.testing.assert_close(terms["loss"], expected)
    assert {"proxy", "accuracy", "quantizer", "code"} < set(terms)
    assert set(objective(x, alit(x))) == set(terms)  # validation: one prediction
    with pytest.raises(ValueError, match="passes has 3 weights, the tokenizer makes 4"):
        ProxyObjective(grid, passes=[1, 1, 1])(x, result)


def test_the_teacher_must_fit() -> None:
    alit = tokenizer(proxy_training=True)
    other = build({**teacher().config, "quantizer": {"_target_": "quantizers.VQ", "dim": 32, "codebook_size": 32}})
    assert isinstance(other, MaskGITVQGAN)
    with pytest.raises(ValueError, match=r"codes \(K, D\) = \(64, 32\), the teacher has \(32, 32\)"):
        alit.adopt(other)


def test_second_stage_draws_a_length() -> None:
    alit, x = tokenizer().train(), pictures()
    torch.manual_seed(0)
    seen = set()
    with torch.no_grad():
        for _ in range(20):
            result = alit(x)
            assert result.output.shape == x.shape and result.lengths is not None
            seen |= set(result.lengths.tolist())
    assert seen == {8, 16, 24, 32}


def test_continuous_latents() -> None:
    alit, x = tokenizer(quantizer={"_target_": "quantizers.Identity", "dim": 8}), pictures()
    with torch.no_grad():
        tokens = alit.encode(x, tokens=16)
        assert alit.spec.continuous and tokens.latents is not None
        assert torch.equal(tokens.latents, alit.encoder(x, 16))
        assert torch.equal(alit.decode(alit.encode(x)), alit(x).output)


CONFIG: dict[str, Any] = {
    "args": {
        "encoder_width": 32,
        "encoder_num_layers": 1,
        "encoder_num_heads": 2,
        "decoder_width": 32,
        "decoder_num_layers": 1,
        "decoder_num_heads": 2,
        "quantize_latent": True,
        "factorize_latent": True,
        "vq_codebook_size": 16,
        "vq_token_dim": 4,
        "vq_commitment_cost": 0.25,
        "vq_use_l2_norm": True,
        "num_init_latent_tokens": 4,
        "img_size": 32,
        "patch_size": 2,
        "max_rollout_iters": 2,
        "dynamic_halting": False,
        "dynamic_halting_threshold": 0.55,
    },
    "base_vqgan": {"ddconfig": {"z_channels": 8, "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1}, "n_embed": 8},
}


def test_configs_of_other_models_are_refused() -> None:
    assert build(ALIT.reference_recipe(CONFIG), device="meta").spec.num_tokens == 8
    for change, message in (
        ({"base_vqgan": {"ddconfig": {"attn_resolutions": [16]}}}, "VQGAN without attention"),
        ({"base_vqgan": {"embed_dim": 4}}, "embed_dim=4 differs from z_channels=256"),
        ({"args": {**CONFIG["args"], "factorize_latent": False}}, "factorize_latent"),
    ):
        with pytest.raises(ValueError, match=message):
            ALIT.reference_recipe({**CONFIG, **change})


def test_critics_of_a_training_state_are_left_out() -> None:
    assert ALIT.convert({"gan_losses.0.logvar": torch.zeros(1)}) == {}


def test_smoothing_is_that_of_torch() -> None:
    """The reference's label smoothing: 0.9 of the target's, 0.1 of the mean log-likelihood."""
    logits, target = torch.randn(3, 7), torch.tensor([0, 3, 6])
    log = logits.log_softmax(1)
    ours = -(0.9 * log[range(3), target] + 0.1 * log.mean(1)).mean()
    torch.testing.assert_close(F.cross_entropy(logits, target, label_smoothing=0.1), ours)


@pytest.mark.parametrize("family", ["alit", "karl"])
def test_both_stages_train(family: str, tmp_path: Path) -> None:
    from zoo.training.run import train

    options = [
        "data.root=docs/assets/photos", "data.batch_size=2", "data.val_size=2", "trainer.max_steps=2",
        "trainer.validate_every=2", "trainer.accelerator=cpu", "logging.tensorboard=false",
    ]  # fmt: skip
    grid = teacher().save_pretrained(tmp_path / "grid")
    frozen = "freeze=[encoder.patches.base,decoder.codebook,decoder.pixels]"
    first = [f"objective={family}_stage1", f"objective.teacher={grid}", "+tokenizer.proxy_training=true", frozen]
    if family == "alit":
        first.append("objective.passes=[2.5,2.0,1.5,1.25]")
    codes = train(f"{family}_tiny", [*options, *first, f"run_dir={tmp_path / 'first'}"])
    known, learned = teacher().state_dict(), zoo.load(codes).state_dict()
    for name, tensor in known.items():
        room, _, rest = name.partition(".")
        ours = {"encoder": "encoder.patches.base.", "decoder": "decoder.pixels."}.get(room)
        if ours is not None:
            assert torch.equal(learned[ours + rest], tensor)
    second = ["freeze=[decoder.codebook]", f"init_from={codes}", f"run_dir={tmp_path / 'second'}"]
    pixels = zoo.load(train(f"{family}_tiny", [*options, *second])).state_dict()
    assert torch.equal(pixels["decoder.codebook"], learned["decoder.codebook"])
    assert not torch.equal(pixels["decoder.pixels.conv_out.weight"], learned["decoder.pixels.conv_out.weight"])


PUBLISHED = [
    ("karl_small_imagenet", "karl_small", "karl_small_vqgan_quantized"),
    ("karl_small_imagenet100", "karl_small", "karl_small_vqgan_quantized"),
    ("karl_small_continuous_imagenet100", None, "karl_small_vqgan_continuous"),
    ("alit_small_imagenet", "alit_small", "alit_small_vqgan_quantized"),
    ("alit_small_imagenet100", "alit_small", "alit_small_vqgan_quantized"),
    ("alit_small_continuous_imagenet100", None, "alit_small_vqgan_continuous"),
    ("alit_base_imagenet100", "alit_base", "alit_base_vqgan_quantized"),
    ("alit_semilarge_imagenet100", "alit_semilarge", "alit_semilarge_vqgan_quantized"),
]


@pytest.mark.parametrize(("name", "recipe", "manifest"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_card_recipe_and_manifest_agree(name: str, recipe: str | None, manifest: str) -> None:
    item = card(name)
    family = getattr(zoo.families, item.family)
    for found in manifests(item.family.lower()):
        if found.id.endswith(f"manifest-{manifest}"):
            assert family.reference_recipe(item.config) == family.reference_recipe(found.config)
    if recipe is not None:
        ours, theirs = build(recipe, device="meta"), build(family.reference_recipe(item.config), device="meta")
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }
        assert ours.spec == theirs.spec
    with pytest.raises(FileNotFoundError, match=f"weights='path/to/{item.weights.file}'"):
        zoo.load(name)


def test_weights_come_as_a_file(tmp_path: Path) -> None:
    """A reference state in a wrapper, with critics, as a training of the original saves it."""
    (case,) = cases("alit")
    state = {**case.state, "gan_losses.0.logvar": torch.zeros(1)}
    torch.save({"model": state}, tmp_path / "alit.pth")
    built = ALIT.from_reference(case.config, read_state(tmp_path / "alit.pth"))
    x = case.io["images"] * 2 - 1
    with torch.no_grad():
        assert torch.equal(built.encode(x).indices[..., 0], case.io["indices_n12"])


def test_encoder_compiles() -> None:
    alit, x = tokenizer(), pictures()
    compiled = torch.compile(alit.encoder, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, 16), alit.encoder(x, 16))
