"""Around the network: any length, batches of different lengths, channels, first codebooks, published keys."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import zoo
from decoders import SEANetDecoder
from encoders import MelEncoder, SEANetEncoder
from quantizers import FSQ, VQ, Projected, Residual, ResidualFSQ, SplitResidual
from zoo.families import AudioCodec
from zoo.families.seanet_reference import codebook_keys, seanet_keys
from zoo.families.weight_norm import fold_weight_norm, folded_gains
from zoo.store.build import compose
from zoo.tokens import Tokens


@cache
def codec(channels: int = 1) -> AudioCodec:
    torch.manual_seed(0)
    encoder = SEANetEncoder(dim=8, width=4, strides=(2, 5), channels=channels, causal=False, bidirectional=True)
    decoder = SEANetDecoder(dim=8, width=4, strides=(5, 2), channels=channels, causal=False)
    return AudioCodec(encoder, Residual(VQ(8, 16), 4), decoder, 1000).eval()


@pytest.mark.parametrize("length", [1, 2, 9, 10, 11, 105])
def test_lengths_come_back(length: int) -> None:
    tokenizer, x = codec(2), torch.rand(2, 2, length) * 2 - 1
    tokens = tokenizer.encode(x)
    assert tokens.num_tokens == tokenizer.count(length) == -(-length // 10)
    assert tokens.lengths is None and tokens.order == "time"
    assert tokenizer.decode(tokens).shape == tokenizer(x).output.shape == x.shape
    unknown = Tokens(tokens.indices, tokens.codebook_sizes, order="time")
    assert tokenizer.decode(unknown).shape[-1] == 10 * tokens.num_tokens


def test_a_ragged_batch_is_its_items() -> None:
    tokenizer, x, lengths = codec(), torch.rand(3, 1, 95) * 2 - 1, torch.tensor([95, 41, 7])
    with torch.no_grad():
        tokens = tokenizer.encode(x, lengths)
        sound = tokenizer.decode(tokens)
        assert tokens.lengths is not None and tokens.lengths.tolist() == [10, 5, 1]
        assert sound.shape == x.shape
        for item, end in enumerate(lengths.tolist()):
            alone = tokenizer.encode(x[item : item + 1, :, :end])
            assert tokenizer.trim(tokens[item]).equal(alone)
            torch.testing.assert_close(sound[item, :, :end], tokenizer.decode(alone)[0], rtol=1e-4, atol=1e-5)
            assert not sound[item, :, end:].any()
        noise = x.clone()
        noise[1, :, 41:] = 7.0
        assert tokenizer.encode(noise, lengths).equal(tokens)


def test_wrong_input_is_explained() -> None:
    for tokenizer, x, message in (
        (codec(), torch.zeros(2, 50), r"add the missing axis, x\[:, None\]"),
        (codec(), torch.zeros(1, 2, 50), r"is mono, got stereo sound; use x.mean"),
        (codec(2), torch.zeros(1, 1, 50), r"is stereo, got mono sound; use x.expand\(-1, 2, -1\)"),
        (codec(), torch.zeros(1, 3, 50), "expects input"),
        (codec(), torch.zeros(1, 1, 0), "expects input"),
        (codec(), torch.full((1, 1, 5), torch.inf), "NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.encode(x)
    x = torch.zeros(2, 1, 50)
    for lengths in (torch.tensor([1.0, 2.0]), torch.tensor([3]), torch.tensor([0, 4]), torch.tensor([5, 51])):
        with pytest.raises(ValueError, match="lengths"):
            codec().encode(x, lengths)


def test_parts_that_do_not_fit_are_refused() -> None:
    encoder, decoder = SEANetEncoder(dim=8, width=4, strides=(2, 5)), SEANetDecoder(dim=8, width=4, strides=(5, 2))
    with pytest.raises(ValueError, match="widths differ"):
        AudioCodec(encoder, VQ(4, 16), decoder, 1000)
    with pytest.raises(ValueError, match="hop_length"):
        AudioCodec(encoder, VQ(8, 16), SEANetDecoder(dim=8, width=4, strides=(4, 2)), 1000)
    with pytest.raises(ValueError, match="channels"):
        AudioCodec(encoder, VQ(8, 16), SEANetDecoder(dim=8, width=4, strides=(5, 2), channels=2), 1000)


@pytest.mark.parametrize(
    "quantizer",
    [
        Residual(VQ(8, 16), 4),
        ResidualFSQ([4] * 8, 3),
        Projected(Residual(VQ(4, 16), 3), 8),
        SplitResidual([Projected(Residual(VQ(4, 16), n), 8, bias=False) for n in (1, 3)]),
    ],
    ids=["residual", "fsq", "projected", "split"],
)
def test_first_codebooks_are_those_of_the_whole_code(quantizer: Residual) -> None:
    tokenizer = AudioCodec(codec().encoder, quantizer, codec().decoder, 1000).eval()
    x = torch.rand(1, 1, 60) * 2 - 1
    with torch.no_grad():
        whole = tokenizer.encode(x)
        for count in range(1, len(quantizer.codebook_sizes) + 1):
            few = tokenizer.encode(x, codebooks=count)
            assert few.equal(whole.keep_codebooks(count))
            assert few.bits() * len(quantizer.codebook_sizes) == whole.bits() * count
            assert tokenizer.decode(few).shape == x.shape
    for count in (0, 9):
        with pytest.raises(ValueError, match="codebooks"):
            tokenizer.encode(x, codebooks=count)
        with pytest.raises(ValueError, match="codebooks"):
            whole.keep_codebooks(count)


def test_codebooks_that_belong_together() -> None:
    encoder, decoder = SEANetEncoder(dim=4, width=4, strides=(10,)), SEANetDecoder(dim=4, width=4, strides=(10,))
    tokenizer = AudioCodec(encoder, FSQ([4] * 4), decoder, 1000).eval()
    with pytest.raises(ValueError, match="uses all of its codebooks"):
        tokenizer.encode(torch.zeros(1, 1, 50), codebooks=1)


def test_seanet_fsq_and_vocos_make_a_codec() -> None:
    tokenizer = zoo.build("seanet_fsq_vocos_tiny").eval()
    x = torch.rand(2, 1, 1234) * 2 - 1
    assert tokenizer.decode(tokenizer.encode(x)).shape == x.shape


def test_weight_norm_is_folded() -> None:
    conv = torch.nn.Conv1d(3, 4, 5)
    old = torch.nn.utils.weight_norm(torch.nn.Conv1d(3, 4, 5))
    new = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 4, 5))
    for module in (old, new):
        state = module.state_dict()
        assert folded_gains(state) == 4
        conv.load_state_dict(fold_weight_norm(state))
        x = torch.randn(1, 3, 9)
        assert torch.equal(conv(x), module(x))
    with pytest.raises(ValueError, match="not complete"):
        fold_weight_norm({"a.weight_g": torch.ones(4, 1, 1)})
    with pytest.raises(ValueError, match="gains along one axis"):
        fold_weight_norm({"a.weight_g": torch.ones(4, 3, 1), "a.weight_v": torch.ones(4, 3, 5)})


ENCODER = ["stem", "stages.0.blocks.0", "", "stages.0.down", "lstm", "", "head"]
DECODER = ["stem", "lstm", "", "stages.0.up", "stages.0.blocks.0", "", "head"]


@pytest.mark.parametrize("layout", ["model", "layers"])
@pytest.mark.parametrize("layers", [ENCODER, DECODER], ids=["encoder", "decoder"])
def test_both_published_layouts_give_our_keys(layers: list[str], layout: str) -> None:
    """Layers numbered in one sequence, with the wrappers of the original or of transformers."""
    state, ours = {}, set()
    inner, single = ("conv.conv", "conv.conv") if layout == "model" else ("conv", "conv")
    for number, name in enumerate(layers):
        place = f"{layout}.{number}"
        if name == "lstm":
            found = {"lstm.weight_ih_l0": "lstm.weight_ih_l0"}
        elif "blocks" in name:
            found = {f"block.{2 * i - 1}.{inner}.weight": f"{name}.conv{i}.weight" for i in (1, 2)}
            found[f"shortcut.{inner}.bias"] = f"{name}.shortcut.bias"
        elif name:
            wrapper = "convtr.convtr" if name.endswith("up") and layout == "model" else single
            found = {f"{wrapper}.weight": f"{name}.weight"}
        else:
            found = {}
        state |= {f"{place}.{theirs}": torch.zeros(1, 1, 1) for theirs in found}
        ours |= set(found.values())
    assert seanet_keys(state).keys() == ours
    with pytest.raises(ValueError, match="no layer"):
        seanet_keys({"something.else": torch.zeros(1)})


def test_codebooks_of_both_layouts() -> None:
    values = {
        "embed": torch.ones(4, 2),
        "embed_avg": torch.ones(4, 2),
        "cluster_size": torch.ones(4),
        "inited": torch.ones(1),
    }
    old = codebook_keys({f"vq.layers.0._codebook.{name}": value for name, value in values.items()})
    new = codebook_keys({f"layers.0.codebook.{name}": value for name, value in values.items()})
    assert (
        old.keys()
        == new.keys()
        == {f"levels.0.{n}" for n in ("codebook", "cluster_sum", "cluster_size", "initialized")}
    )
    assert old["levels.0.initialized"].dtype == torch.bool and old["levels.0.initialized"].shape == ()
    with pytest.raises(ValueError, match="no buffer"):
        codebook_keys({"vq.layers.0._codebook.other": torch.ones(1)})


def test_parts_without_parameters_have_a_dtype_and_a_device() -> None:
    mel = MelEncoder(8000, dim=8, frame=64, hop_length=10)
    tokenizer = AudioCodec(mel, FSQ([3] * 8), SEANetDecoder(dim=8, width=4, strides=(5, 2)).bfloat16(), 8000)
    assert tokenizer.dtype is torch.bfloat16 and tokenizer.device == torch.device("cpu")
    assert tokenizer.decode(tokenizer.encode(torch.rand(1, 1, 80))).shape == (1, 1, 80)
    tokenizer.decoder = torch.nn.Identity()
    assert tokenizer.dtype is torch.float32 and tokenizer.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("recipe", "samples"),
    [
        ("vocos_mel_24khz", 16384),
        ("vocos_encodec_24khz", 16384),
        ("snac_24k", 8 * 2048),
        ("snac_32k", 2 * 32 * 384),
        ("snac_44k", 2 * 32 * 384),
    ],
)
def test_clips_of_the_published_recipes_are_whole_blocks(recipe: str, samples: int) -> None:
    data = compose(recipe).data
    assert round(data.seconds * data.sample_rate) == samples
