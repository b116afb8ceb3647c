"""KARL: qualities, budgets, tokens that halt in the middle of a code, and both passes of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

import zoo
from zoo import Tokens
from zoo.families import KARL
from zoo.families.karl import keep_active
from zoo.store.build import build, compose


def tokenizer(shift: float = 0.0, **changes: Any) -> KARL:
    """With random weights, of which about half of the tokens halt, anywhere; a larger shift halts more."""
    torch.manual_seed(0)
    plain = OmegaConf.to_container(compose("karl_tiny").tokenizer, resolve=True)
    assert isinstance(plain, dict)
    built = build({**plain, **changes}).eval()
    assert isinstance(built, KARL)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        built.encoder.halting[2].weight.mul_(5)  # type: ignore[union-attr, operator]
        built.encoder.halting[2].bias.fill_(shift)  # type: ignore[union-attr, operator]
    return built


def pictures(count: int = 3) -> Tensor:
    noise = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return noise * torch.linspace(0.1, 1, count)[:, None, None, None]


def test_tokens_halt_anywhere() -> None:
    karl = tokenizer()
    with torch.no_grad():
        tokens = karl.encode(pictures())
    assert tokens.positions is not None and tokens.lengths is not None
    assert len(set(tokens.lengths.tolist())) > 1 and tokens.num_tokens == int(tokens.lengths.max()) < 32
    for places, length in zip(tokens.positions, tokens.lengths, strict=True):
        assert bool((places[:length].diff() > 0).all())


def test_batch_equals_one_by_one() -> None:
    karl, x = tokenizer(), pictures(4)
    quality = torch.tensor([0.005, 0.05, 0.2, 0.5])
    with torch.no_grad():
        together = karl.encode(x, quality=quality, budget=24)
        output = karl.decode(together)
        for number in range(4):
            alone = karl.encode(x[number : number + 1], quality=float(quality[number]), budget=24)
            length = alone.num_tokens
            assert together.lengths is not None and together.positions is not None and alone.positions is not None
            assert together.lengths[number] == length
            assert torch.equal(together.indices[number, :length], alone.indices[0])
            assert torch.equal(together.positions[number, :length], alone.positions[0])
            torch.testing.assert_close(karl.decode(alone)[0], output[number], rtol=1e-4, atol=1e-4)


def test_halted_tokens_are_as_good_as_absent() -> None:
    """The reference keeps halted tokens in the sequence: they see themselves alone, and no other sees them."""
    karl, x = tokenizer(), pictures()
    part = karl.decoder.logits
    with torch.no_grad():
        coded = karl.encoder(x, karl.encoder.bins(torch.full((3,), 0.05)), 32)
        latents = karl.quantizer(coded.latents).latents
        halted = F.pad(coded.logits.sigmoid() > 0.75, (64, 0))
        blocked = halted[:, None] | halted[:, :, None]
        blocked[:, range(96), range(96)] = False
        queries = (part.mask_token + part.position_map((8, 8))).expand(3, -1, -1)
        sequence = torch.cat([queries, part.latent_embedding(latents) + part.latent_position_embedding], dim=1)
        sequence = part.norm_pre(sequence)
        for block in part.blocks:
            sequence = block(sequence, ~blocked[:, None])
        expected = part.head(part.norm_post(sequence[:, :64])).mT.unflatten(2, (8, 8))
        torch.testing.assert_close(karl(x).extras["proxy_logits"], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(karl.decode(karl.encode(x)), karl(x).output)


def test_quality_is_rounded_up_to_a_bin() -> None:
    encoder = tokenizer().encoder
    wanted = torch.tensor([0.0, 0.005, 0.006, 0.05, 0.051, 0.08, 0.38, 2.0])
    ends = torch.tensor(encoder.qualities)[encoder.bins(wanted)]
    torch.testing.assert_close(ends, torch.tensor([0.005, 0.005, 0.01, 0.05, 0.06, 0.09, 0.38, 0.38]))
    assert len(encoder.qualities) == 19


def test_bad_requests() -> None:
    karl, x = tokenizer(), pictures()
    for budget in (0, 33):
        with pytest.raises(ValueError, match=r"budget must lie in 1\.\.32"):
            karl.encode(x, budget=budget)
    for quality in (-0.1, float("nan"), torch.tensor([0.1, 0.1])):
        with pytest.raises(ValueError, match="quality is an error of at least 0"):
            karl.encode(x, quality=quality)
    with torch.no_grad():
        tokens = karl.encode(x)
    assert tokens.positions is not None
    with pytest.raises(ValueError, match=r"positions must lie in 0\.\.31"):
        karl.decode(Tokens(tokens.indices, (1024,), tokens.lengths, positions=tokens.positions + 32))
    with pytest.raises(ValueError, match="steps"):
        karl.decode(tokens, steps=3)


def test_positions_survive(tmp_path: Path) -> None:
    karl, x = tokenizer(), pictures()
    with torch.no_grad():
        tokens = karl.encode(x)
        output = karl.decode(tokens)
        tokens.save(tmp_path / "tokens.safetensors")
        again = Tokens.load(tmp_path / "tokens.safetensors")
        assert again.equal(tokens) and torch.equal(karl.decode(again), output)
        ids = tokens.to_ids()
        back = Tokens.from_ids(ids, (1024,), token_order=tokens.order, positions=tokens.positions)
        assert torch.equal(karl.decode(back), output)
        joined = Tokens.cat([tokens[2], tokens[0]])
        torch.testing.assert_close(karl.decode(joined), output[[2, 0]], rtol=1e-4, atol=1e-4)
        assert karl.decode(tokens.keep(4)).shape == x.shape
        bare = Tokens(tokens.indices, (1024,), tokens.lengths, order=tokens.order)
        assert not torch.equal(karl.decode(bare), output)


def test_nothing_or_everything_halts() -> None:
    x = pictures()
    with torch.no_grad():
        none = tokenizer(shift=-50.0)
        tokens = none.encode(x, budget=20)
        assert tokens.positions is None and tokens.lengths is not None and tokens.lengths.tolist() == [20] * 3
        every = tokenizer(shift=50.0)
        tokens = every.encode(x)
        assert tokens.num_tokens == 1 and tokens.lengths is not None and tokens.lengths.tolist() == [0] * 3
        assert tokens.bits().tolist() == [0] * 3
        assert torch.isfinite(every.decode(tokens)).all()
        assert torch.equal(every.decode(tokens), every(x).output)


def test_active_tokens_move_to_the_front() -> None:
    karl = tokenizer()
    quantized = karl.quantizer(torch.randn(2, 5, 8))
    active = torch.tensor([[False, True, False, True, True], [True, True, False, False, False]])
    kept, lengths, positions = keep_active(quantized, active)
    assert lengths.tolist() == [3, 2] and positions is not None
    assert positions.tolist() == [[1, 3, 4], [0, 1, 0]]
    assert torch.equal(kept.indices[0], quantized.indices[0, [1, 3, 4]])
    assert kept.latents[1, 2].tolist() == [0] * 8
    assert keep_active(quantized, active.sort(dim=1, descending=True).values)[2] is None


def test_continuous_latents() -> None:
    karl, x = tokenizer(quantizer={"_target_": "quantizers.Identity", "dim": 8}), pictures()
    with torch.no_grad():
        tokens = karl.encode(x)
        assert karl.spec.continuous and tokens.latents is not None
        assert tokens.latents.shape[:2] == tokens.indices.shape[:2] == (3, tokens.num_tokens)
        assert torch.equal(karl.decode(tokens), karl(x).output)


def test_halting_losses() -> None:
    karl, x = tokenizer(), pictures()
    bins = torch.tensor([3, 4, 5])
    logits = karl.encoder(x, bins, 32).logits
    for needed in (12, 32):
        made = karl._train_pass(x, bins, 32, needed, drop=True)
        expected = F.softplus(logits[:, :needed]).mean()
        if needed < 32:
            expected = expected + F.softplus(-logits[:, needed:]).mean()
        torch.testing.assert_close(made.halting, expected)
    assert karl._train_pass(x, bins, 20, 20, drop=False).lengths.tolist() == [20] * 3


@pytest.mark.parametrize("proxy_training", [True, False])
def test_a_training_step_has_two_passes(proxy_training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    karl, x = tokenizer(proxy_training=proxy_training).train(), pictures()
    passes: list[tuple[list[int], int, int, bool]] = []
    results = []
    train_pass = KARL._train_pass

    def spy(self: KARL, x: Tensor, bins: Tensor, tokens: int, needed: int, *, drop: bool) -> Any:
        passes.append((bins.tolist(), tokens, needed, drop))
        results.append(train_pass(self, x, bins, tokens, needed, drop=drop))
        return results[-1]

    monkeypatch.setattr(KARL, "_train_pass", spy)
    torch.manual_seed(0)
    lengths = set()
    for _ in range(12):
        passes.clear()
        results.clear()
        with torch.no_grad():
            made = karl(x)
        (near, reach, needed, first_drops), (bins, budget, kept, second_drops) = passes
        assert max(near) <= 4 and reach == needed == kept and reach % 4 == 0 and budget == 32
        assert not first_drops and second_drops
        lengths.add(reach)
        first, second = results
        with torch.no_grad():
            error = (karl.decoder.render(first.logits) - x).abs().flatten(1).mean(1) / 2
        assert bins == karl.encoder.bins(error).tolist()
        halting = first.halting + second.halting
        torch.testing.assert_close(made.quantized.loss, first.quantized.loss + second.quantized.loss + halting)
        torch.testing.assert_close(made.quantized.parts["halting"], halting)
        assert torch.equal(made.lengths, second.lengths)
        if proxy_training:
            assert made.extras["proxy_logits"].shape == (2, 3, 64, 8, 8)
            assert made.extras["proxy_codes"].shape == (3, 8, 8)
        else:
            sides = [karl.decoder.render(item.logits) for item in results]
            for number in range(3):
                near_one = [torch.allclose(made.output[number], side[number], atol=1e-4) for side in sides]
                assert any(near_one)
    assert len(lengths) > 4


def test_published_config_has_room_for_more_places_than_the_budget() -> None:
    built = zoo.build("karl_small", device="meta")
    assert isinstance(built, KARL)
    assert built.spec.num_tokens == 256 and built.encoder.num_tokens == built.decoder.num_tokens == 512
    assert (built.shortest, built.longest) == (16, 368)
    with pytest.raises(ValueError, match="num_tokens=64, but the encoder has 32"):
        tokenizer(num_tokens=64)
    with pytest.raises(ValueError, match="shortest=40"):
        tokenizer(shortest=40)


def test_parts_compile() -> None:
    karl, x, bins = tokenizer(), pictures(), torch.tensor([1, 5, 9])
    encoder = torch.compile(karl.encoder, fullgraph=True, backend="aot_eager")
    decoder = torch.compile(karl.decoder.logits, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for ours, expected in zip(encoder(x, bins, 20), karl.encoder(x, bins, 20), strict=True):
            torch.testing.assert_close(ours, expected)
        code = torch.randn(3, 5, 8), torch.tensor([2, 5, 0]), torch.arange(5).expand(3, -1) * 2
        torch.testing.assert_close(decoder(*code), karl.decoder.logits(*code))
