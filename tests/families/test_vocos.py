"""Vocos: parts, ragged batches, codes and features from elsewhere, and the reference's configs and files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from decoders import ConvNeXtBackbone, IMDCTHead, ISTFTHead, ResNetBackbone, VocosDecoder
from encoders import MelEncoder, SEANetEncoder
from quantizers import FSQ, VQ, Identity, Residual
from zoo import Tokens
from zoo.families import AudioCodec, Vocos
from zoo.store.build import build
from zoo.store.cards import card

RATE, HOP = 16_000, 32


def decoder(dim: int = 12, conditions: int = 0, *, attention: bool = False, imdct: bool = False) -> VocosDecoder:
    torch.manual_seed(0)
    if imdct:
        return VocosDecoder(ResNetBackbone(dim, 16, 1), IMDCTHead(16, HOP, sample_rate=RATE)).eval()
    width = 64 if attention else 32
    backbone = ConvNeXtBackbone(dim, width, 2, conditions=conditions, attention=attention)
    return VocosDecoder(backbone, ISTFTHead(width, HOP)).eval()


def mel_vocos(framing: str = "center") -> Vocos:
    torch.manual_seed(0)
    mel = MelEncoder(RATE, 12, 128, HOP, framing)  # type: ignore[arg-type]
    head = ISTFTHead(32, HOP, framing=framing)  # type: ignore[arg-type]
    return Vocos(mel, Identity(12), VocosDecoder(ConvNeXtBackbone(12, 32, 2), head), RATE).eval()


def code_vocos(encoder: bool = True) -> Vocos:
    torch.manual_seed(0)
    seanet = SEANetEncoder(dim=12, width=4, strides=[4, 8], lstm=0) if encoder else None
    quantizer = Residual(VQ(12, 16), 4)
    return Vocos(seanet, quantizer, decoder(conditions=3), RATE, codebooks=[1, 2, 4]).eval()


def sounds(count: int = 2, samples: int = 1000) -> Tensor:
    return torch.randn(count, 1, samples, generator=torch.Generator().manual_seed(1)) * 0.3


@pytest.mark.parametrize("options", [{}, {"attention": True}, {"imdct": True}, {"conditions": 2}], ids=str)
def test_items_of_a_batch_decode_as_if_alone(options: dict[str, Any]) -> None:
    vocos, latents, lengths = decoder(**options), torch.randn(3, 20, 12), torch.tensor([20, 1, 7])
    latents[2, 7:] = torch.nan
    with torch.no_grad():
        together = vocos(latents, lengths)
        assert together.shape == (3, 1, 20 * HOP)
        for item, length in enumerate(lengths.tolist()):
            alone = vocos(latents[item : item + 1, :length])[0]
            torch.testing.assert_close(together[item, :, : length * HOP], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("imdct", [False, True])
def test_context_is_how_far_a_token_is_heard(imdct: bool) -> None:
    vocos, latents = decoder(imdct=imdct), torch.randn(1, 60, 12)
    before, after = vocos.context or (0, 0)
    changed = latents.clone()
    changed[:, 30] += 1
    with torch.no_grad():
        heard = (vocos(changed) != vocos(latents)).view(60, HOP).any(1).nonzero().flatten()
    assert 30 - after <= heard.min() and heard.max() <= 30 + before
    assert decoder(attention=True).context is None


def test_stereo_is_a_matter_of_the_head() -> None:
    for head in (ISTFTHead(32, HOP, channels=2), IMDCTHead(32, HOP, channels=2)):
        vocos = VocosDecoder(ConvNeXtBackbone(12, 32, 1), head)
        assert vocos.channels == 2
        assert vocos(torch.randn(3, 5, 12)).shape == (3, 2, 5 * HOP)


def test_the_inverse_mdct_undoes_an_mdct() -> None:
    """Analysis with the same windowed cosines, a hop apart, and synthesis give the sound back but for its ends."""
    head = IMDCTHead(4, HOP)
    x = torch.randn(1, 10 * HOP)
    coefficients = x.unfold(1, 2 * HOP, HOP) @ head.basis.value.T
    samples = head.add(coefficients @ head.basis.value)
    torch.testing.assert_close(samples[:, HOP // 2 : -HOP // 2], x[:, HOP:-HOP], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("framing", ["center", "same"])
@pytest.mark.parametrize("samples", [1, 31, 32, 1000, 1024])
def test_any_length_comes_back(framing: str, samples: int) -> None:
    tok, x = mel_vocos(framing), sounds(2, samples)
    with torch.no_grad():
        tokens = tok.encode(x)
        assert tokens.latents is not None and tokens.latents.shape == (2, -(-samples // HOP), 12)
        assert torch.equal(tok.decode(tokens), tok(x).output)
    assert tok(x).output.shape == x.shape
    assert tok.spec.continuous and tok.latency > HOP


def test_ragged_batches_are_as_their_items() -> None:
    tok, x, lengths = mel_vocos(), sounds(3), torch.tensor([1000, 40, 517])
    with torch.no_grad():
        tokens = tok.encode(x, lengths)
        output = tok.decode(tokens)
        for item, length in enumerate(lengths.tolist()):
            alone = tok.decode(tok.encode(x[item : item + 1, :, :length]))[0]
            torch.testing.assert_close(output[item, :, :length], alone, rtol=1e-4, atol=1e-4)
            assert not output[item, :, length:].any()


def test_mel_spectra_from_elsewhere_decode() -> None:
    tok, spectrum = mel_vocos(), torch.randn(1, 9, 12)
    tokens = Tokens(torch.empty(1, 9, 0, dtype=torch.int64), (), latents=spectrum, order="time")
    with torch.no_grad():
        assert torch.equal(tok.decode(tokens), tok.decoder(spectrum))


def test_the_number_of_codebooks_chooses_the_condition() -> None:
    tok, x = code_vocos(), sounds()
    with torch.no_grad():
        for count, row in ((1, 0), (2, 1), (3, 2), (4, 2)):
            tokens = tok.encode(x, codebooks=count)
            latents = tok.quantizer.lookup(tokens.indices)
            assert torch.equal(tok.decode(tokens), tok.decoder(latents, None, row)[..., :1000])
        tok.bandwidth_id = 0
        assert torch.equal(tok.decode(tokens), tok.decoder(latents, None, 0)[..., :1000])
    with pytest.raises(ValueError, match=r"condition lies in \[0, 3\), got 3"):
        tok.decoder(latents, None, 3)


def test_each_item_may_have_a_condition() -> None:
    vocos, latents = decoder(conditions=2), torch.randn(2, 9, 12)
    with torch.no_grad():
        for norm in vocos.modules():
            if hasattr(norm, "weight") and norm.weight is not None and norm.weight.shape == (2, 32):
                norm.weight.normal_()
        together = vocos(latents, None, torch.tensor([1, 0]))
        torch.testing.assert_close(together[:1], vocos(latents[:1], None, 1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together[1:], vocos(latents[1:], None, 0), rtol=1e-4, atol=1e-5)


def test_training_draws_numbers_of_codebooks() -> None:
    tok, x = code_vocos().train(), sounds()
    torch.manual_seed(0)
    counts = {tok(x).quantized.indices.shape[-1] for _ in range(20)}
    assert counts == {1, 2, 4}
    assert tok.eval()(x).quantized.indices.shape[-1] == 4


def test_without_an_encoder_it_decodes_only() -> None:
    whole, tok, x = code_vocos(), code_vocos(encoder=False), sounds()
    tok.quantizer.load_state_dict(whole.quantizer.state_dict())
    with torch.no_grad():
        tokens = whole.encode(x, codebooks=2)
        assert torch.equal(tok.decode(tokens), whole.decode(tokens))
    assert whole.encodes and not tok.encodes and tok.latency > HOP
    with pytest.raises(ValueError, match="no encoder"):
        tok.encode(x)


def published(**changes: Any) -> dict[str, Any]:
    return {**card("vocos_encodec_24khz").config, **changes}


def state_of(tok: Vocos) -> dict[str, Tensor]:
    """A published file of the EnCodec variant, as its hub has it: without EnCodec, with things of its training."""
    books = torch.cat([level.codebook.detach() for level in tok.quantizer.levels])
    state = {"feature_extractor.codebook_weights": books, "head.istft.window": torch.hann_window(1280)}
    state |= {"multiperioddisc.discriminators.0.convs.0.bias": torch.ones(1), "melspec_loss.x": torch.ones(1)}
    renamed = (
        (".blocks.", ".convnext."), (".conv.", ".dwconv."), (".fc", ".pwconv"), (".gain", ".gamma"),
        (".final_norm", ".final_layer_norm"),
    )  # fmt: skip
    for key, tensor in tok.decoder.state_dict().items():
        for ours, theirs in renamed:
            key = key.replace(ours, theirs)
        if ".final" not in key:
            key = key.replace("norm.weight", "norm.scale.weight").replace("norm.bias", "norm.shift.weight")
        state[key] = tensor.mT.contiguous() if tensor.ndim == 3 else tensor
    return state


def test_the_published_file_without_encodec_loads_and_decodes() -> None:
    torch.manual_seed(0)
    config = published()
    config["backbone"] = {**config["backbone"], "init_args": {**config["backbone"]["init_args"], "num_layers": 1}}
    tok = build(Vocos.reference_recipe(config))
    loaded = Vocos.from_reference(config, state_of(tok))
    assert not loaded.encodes and loaded.codebooks == (2, 4, 8, 16)
    tokens = Tokens(torch.randint(1024, (1, 3, 4)), (1024,) * 4, order="time")
    with torch.no_grad():
        assert torch.equal(loaded.decode(tokens), tok.eval().decode(tokens))
    with pytest.raises(RuntimeError, match="surplus"):
        Vocos.from_reference(config, {**state_of(tok), "surplus": torch.ones(1)})


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("backbone", {"class_path": "vocos.models.Other"}, "VocosBackbone"),
        ("head", {"class_path": "vocos.heads.IMDCTCosHead"}, "ISTFTHead"),
        ("feature_extractor", {"encodec_model": "encodec_48khz"}, "encodec_24khz"),
        ("feature_extractor", {"train_codebooks": True}, "train_codebooks"),
    ],
)
def test_unknown_parts_of_a_reference_config_are_refused(part: str, change: dict[str, Any], message: str) -> None:
    node = published()[part]
    changed = {**node, **change} if "class_path" in change else {**node, "init_args": {**node["init_args"], **change}}
    with pytest.raises(ValueError, match=message):
        Vocos.reference_recipe(published(**{part: changed}))


@pytest.mark.parametrize("name", ["vocos_mel_24khz", "vocos_encodec_24khz"])
def test_recipes_are_the_published_models(name: str) -> None:
    ours, theirs = build(name, device="meta"), build(Vocos.reference_recipe(card(name).config), device="meta")
    one, two = ({key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs))
    assert one == two and ours.spec == theirs.spec


def test_parts_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="head reads a width of 16, the backbone gives 32"):
        VocosDecoder(ConvNeXtBackbone(12, 32, 1), ISTFTHead(16, HOP))
    with pytest.raises(ValueError, match=r"quantizer\.dim=4"):
        Vocos(None, Identity(4), decoder(), RATE)
    with pytest.raises(ValueError, match="3 conditions"):
        Vocos(None, Identity(12), decoder(conditions=3), RATE, codebooks=[1, 2])
    with pytest.raises(ValueError, match="multiple of 32"):
        ConvNeXtBackbone(12, 48, 1, attention=True)


def test_behind_another_encoder_by_recipe() -> None:
    node = {
        "_target_": "zoo.families.AudioCodec",
        "sample_rate": RATE,
        "encoder": {"_target_": "encoders.SEANetEncoder", "dim": 3, "width": 4, "strides": [4, 8], "lstm": 0},
        "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 5, 5]},
        "decoder": {
            "_target_": "decoders.VocosDecoder",
            "backbone": {"_target_": "decoders.ConvNeXtBackbone", "dim": 3, "width": 16, "depth": 1},
            "head": {"_target_": "decoders.ISTFTHead", "width": 16, "hop_length": 32},
        },
    }
    tok = build(node).eval()
    assert isinstance(tok, AudioCodec) and isinstance(tok.quantizer, FSQ)
    with torch.no_grad():
        assert tok.decode(tok.encode(sounds(2, 777))).shape == (2, 1, 777)


def test_compiles_as_one_graph() -> None:
    tok = mel_vocos()
    x, lengths = sounds(), torch.tensor([1000, 300])
    with torch.no_grad():
        z = tok.encoder(x, lengths)
        compiled = torch.compile(tok.encoder, fullgraph=True, backend="eager")(x, lengths)
        torch.testing.assert_close(compiled, z, rtol=1e-4, atol=1e-4)
        for part in (tok.decoder, decoder(conditions=2, attention=True)):
            code, counts = torch.randn(2, 9, 12), torch.tensor([9, 4])
            compiled = torch.compile(part, fullgraph=True, backend="eager")(code, counts)
            torch.testing.assert_close(compiled, part(code, counts), rtol=1e-4, atol=1e-5)


def test_runs_in_half_precision() -> None:
    tok, x = mel_vocos(), sounds()
    with torch.no_grad():
        full = tok.decode(tok.encode(x))
        tok.to(torch.bfloat16)
        half = tok.decode(tok.encode(x))
    assert tok.dtype == torch.bfloat16 and half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0, atol=0.1)


def test_it_is_saved_and_loaded_without_an_encoder(tmp_path: Any) -> None:
    torch.manual_seed(0)
    node = {
        "_target_": "zoo.families.Vocos",
        "sample_rate": RATE,
        "encoder": None,
        "quantizer": {"_target_": "quantizers.Identity", "dim": 12},
        "decoder": {
            "_target_": "decoders.VocosDecoder",
            "backbone": {"_target_": "decoders.ResNetBackbone", "dim": 12, "width": 16, "depth": 1},
            "head": {"_target_": "decoders.IMDCTHead", "width": 16, "hop_length": 32},
        },
    }
    tok = build(node).eval()
    tok.save_pretrained(tmp_path)
    tokens = Tokens(torch.empty(1, 5, 0, dtype=torch.int64), (), latents=torch.randn(1, 5, 12), order="time")
    with torch.no_grad():
        assert torch.equal(zoo.load(tmp_path).decode(tokens), tok.decode(tokens))
