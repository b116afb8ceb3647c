"""WavTokenizer: masked batches, conditions, training checkpoints, and the reference's configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import ROOT, Case
from torch import Tensor

import zoo
from decoders import ConvNeXtBackbone, ISTFTHead, VocosDecoder
from encoders import SEANetEncoder
from encoders.layers.position_net import PositionNet
from quantizers import VQ
from zoo.families import WavTokenizer
from zoo.store.build import build
from zoo.store.cards import card, cards

RATE = 16_000
CARDS = [item.name for item in cards() if item.family == "WavTokenizer" and not item.weights.embedded]


def tokenizer(conditions: int = 4) -> WavTokenizer:
    torch.manual_seed(0)
    encoder = SEANetEncoder(dim=8, width=4, strides=[4, 8], causal=False)
    backbone = ConvNeXtBackbone(8, 64, 2, conditions=conditions, attention=True)
    tok = WavTokenizer(encoder, VQ(8, 32, learn="ema"), VocosDecoder(backbone, ISTFTHead(64, 32)), RATE).eval()
    with torch.no_grad():
        tok.quantizer.codebook.copy_(torch.randn(32, 8) * 0.05)
        for parameter in tok.decoder.parameters():  # norms and gains away from their start, so that they matter
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return tok


def sounds(count: int = 3, samples: int = 1500) -> Tensor:
    return torch.randn(count, 1, samples, generator=torch.Generator().manual_seed(1)) * 0.3


def test_padding_changes_nothing() -> None:
    """Neither codes nor sound, wherever they are: what is global in time is masked, edges are each item's own."""
    tok, x, lengths = tokenizer(), sounds(), torch.tensor([1500, 20, 777])
    with torch.no_grad():
        tokens = tok.encode(x, lengths)
        output = tok.decode(tokens)
        assert output.shape == x.shape and tokens.lengths is not None
        assert tokens.lengths.tolist() == [47, 1, 25]
        for item, length in enumerate(lengths.tolist()):
            alone = tok.encode(x[item : item + 1, :, :length])
            assert torch.equal(tokens.indices[item, : alone.num_tokens], alone.indices[0])
            torch.testing.assert_close(output[item, :, :length], tok.decode(alone)[0], rtol=1e-4, atol=1e-5)
            assert not output[item, :, length:].any()


def test_what_stands_behind_an_item_has_no_effect() -> None:
    tok, x, lengths = tokenizer(), sounds(2), torch.tensor([1500, 400])
    other = x.clone()
    other[1, :, 400:] = 1.0
    with torch.no_grad():
        assert tok.encode(x, lengths).equal(tok.encode(other, lengths))


def test_positions_see_all_real_ones_and_no_padding() -> None:
    torch.manual_seed(0)
    net, x = PositionNet(64).eval(), torch.randn(2, 30, 64)
    lengths = torch.tensor([30, 11])
    with torch.no_grad():
        whole, changed = net(x, lengths), x.clone()
        torch.testing.assert_close(whole[1:, :11], net(x[1:, :11]), rtol=1e-4, atol=1e-5)
        changed[1, 11:] = torch.randn(19, 64)
        torch.testing.assert_close(net(changed, lengths)[1, :11], whole[1, :11], rtol=1e-6, atol=1e-6)
        changed[1, 10] += 10
        assert not torch.allclose(net(changed, lengths)[1, 0], whole[1, 0])


def test_bandwidth_id_chooses_norms_and_training_draws_it() -> None:
    tok, x = tokenizer(), sounds(1)
    tokens = tok.encode(x)
    with torch.no_grad():
        first = tok.decode(tokens)
        tok.bandwidth_id = 0
        assert torch.equal(tok.decode(tokens), first)
        tok.bandwidth_id = 3
        assert not torch.equal(tok.decode(tokens), first)
    tok.bandwidth_id = None
    tok.train()
    drawn: set[int] = set()
    tok.decoder.register_forward_hook(lambda _module, given, _made: drawn.add(given[2]))
    torch.manual_seed(0)
    for _ in range(30):
        tok(x)
    assert drawn == {0, 1, 2, 3}


def test_long_sounds_are_as_the_whole() -> None:
    tok = tokenizer()
    assert tok.encoder.context is None and tok.decoder.context is None
    with pytest.raises(ValueError, match="whole sound"):
        _ = tok.latency


def test_training_checkpoints_load_without_their_discriminators() -> None:
    case = next((Case(path.parent) for path in sorted(ROOT.glob("wavtokenizer/*/config.json"))), None)
    if case is None:
        pytest.skip(f"no golden case of WavTokenizer under {ROOT}")
    extras = ("multiperioddisc.x", "multiresddisc.x", "dac.x", "dacdiscriminator.x", "melspec_loss.mel_spec.x")
    converted = WavTokenizer.convert({**case.state, **dict.fromkeys(extras, torch.ones(1))})
    assert converted.keys() == WavTokenizer.convert(case.state).keys()
    tok = WavTokenizer.from_reference(case.config, {**case.state, "dac.x": torch.ones(1)})
    assert bool(tok.quantizer.initialized)
    with pytest.raises(RuntimeError, match="surplus"):
        WavTokenizer.from_reference(case.config, {**case.state, "surplus": torch.ones(1)})


@pytest.mark.parametrize("name", CARDS)
def test_cards_state_rates(name: str) -> None:
    item = card(name)
    spec = build(WavTokenizer.reference_recipe(item.config), device="meta").spec
    rate = 40 if name.endswith("_40") else 75
    assert (spec.sample_rate, spec.num_tokens, spec.codebook_sizes) == (24_000, rate, (4096,))
    assert f"{rate} tokens a second" in item.title and f"{rate * 12 / 1000:g} kbit/s" in item.notes


def test_known_answer_is_that_of_a_tone() -> None:
    (answer,) = card("wavtokenizer_large_unify_40").known_answers
    assert answer.input == {"kind": "sine", "frequency": 440, "amplitude": 0.5, "seconds": 0.5}
    assert len(answer.tokens) == 10 and answer.count == 20


@pytest.mark.parametrize("rate", [75, 40])
def test_recipes_are_the_published_models(rate: int) -> None:
    """But for the count that replacing dead codes keeps; without it, training can start from published weights."""
    name = f"wavtokenizer_small_{rate}"
    node = build(name, device="meta").config
    node["quantizer"] = {**node["quantizer"], "dead_code_threshold": 0.0}
    theirs = build(WavTokenizer.reference_recipe(card(name).config), device="meta")
    one, two = ({k: v.shape for k, v in tok.state_dict().items()} for tok in (build(node, device="meta"), theirs))
    assert one == two


def published(part: str, **changes: Any) -> dict[str, Any]:
    config = card("wavtokenizer_small_75").config
    return {**config, part: {**config[part], "init_args": {**config[part]["init_args"], **changes}}}


def test_impossible_reference_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="one codebook"):
        WavTokenizer.reference_recipe(published("feature_extractor", num_quantizers=2))
    with pytest.raises(ValueError, match="input_channels is 128"):
        WavTokenizer.reference_recipe(published("backbone", input_channels=128))
    with pytest.raises(ValueError, match="has no 'feature_extractor'"):
        WavTokenizer.from_reference({"sample_rate": 24_000}, {})


def test_any_length_comes_back() -> None:
    tok = zoo.build("wavtokenizer_tiny").eval()
    with torch.no_grad():
        for samples in (1, 255, 256, 3000):
            tokens = tok.encode(sounds(1, samples))
            assert tokens.num_tokens == -(-samples // 256)
            assert tok.decode(tokens).shape == (1, 1, samples)
