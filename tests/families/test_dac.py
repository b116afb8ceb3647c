"""DAC: exact lengths, exact reach, batches of different lengths, numbers of codebooks, both published layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from decoders import DACDecoder
from encoders import DACEncoder
from zoo.families import DAC
from zoo.long_audio import decode_long, encode_long
from zoo.store.build import build

CONFIG: dict[str, Any] = {
    "encoder_dim": 4, "encoder_rates": [2, 5, 3], "latent_dim": None, "decoder_dim": 32, "decoder_rates": [3, 5, 2],
    "n_codebooks": 3, "codebook_size": 16, "codebook_dim": 4, "quantizer_dropout": 0.5, "sample_rate": 600,
}  # fmt: skip
HOP, LOST = 30, 12  # (1 * 3 - 1) * 5 - 1 = 9 steps of 2 samples


def published(style: str = "g") -> dict[str, Tensor]:
    """Random weights under the keys of the original repository, with weight norm."""
    generator = torch.Generator().manual_seed(0)
    gain, direction = {
        "g": ("weight_g", "weight_v"),
        "parametrized": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    }[style]
    state: dict[str, Tensor] = {}

    def conv(key: str, *shape: int, outputs: int | None = None) -> None:
        weight = torch.randn(shape, generator=generator)
        state[f"{key}.{direction}"] = weight
        state[f"{key}.{gain}"] = 0.3 + 0.4 * torch.rand(shape[0], 1, 1, generator=generator)
        state[f"{key}.bias"] = 0.1 * torch.randn(outputs or shape[0], generator=generator)

    def snake(key: str, width: int) -> None:
        state[f"{key}.alpha"] = 0.5 + torch.rand(1, width, 1, generator=generator)

    def unit(key: str, width: int) -> None:
        snake(f"{key}.block.0", width)
        conv(f"{key}.block.1", width, width, 7)
        snake(f"{key}.block.2", width)
        conv(f"{key}.block.3", width, width, 1)

    conv("encoder.block.0", 4, 1, 7)
    for level, stride in enumerate((2, 5, 3)):
        stage, width = f"encoder.block.{level + 1}.block", 4 * 2**level
        for number in range(3):
            unit(f"{stage}.{number}", width)
        snake(f"{stage}.3", width)
        conv(f"{stage}.4", 2 * width, width, 2 * stride)
    snake("encoder.block.4", 32)
    conv("encoder.block.5", 32, 32, 3)
    conv("decoder.model.0", 32, 32, 7)
    for level, stride in enumerate((3, 5, 2)):
        stage, width = f"decoder.model.{level + 1}.block", 32 // 2**level
        snake(f"{stage}.0", width)
        conv(f"{stage}.1", width, width // 2, 2 * stride, outputs=width // 2)
        for number in range(3):
            unit(f"{stage}.{number + 2}", width // 2)
    snake("decoder.model.4", 4)
    conv("decoder.model.5", 1, 4, 7)
    for level in range(3):
        key = f"quantizer.quantizers.{level}"
        conv(f"{key}.in_proj", 4, 32, 1)
        conv(f"{key}.out_proj", 32, 4, 1)
        state[f"{key}.codebook.weight"] = torch.randn(16, 4, generator=generator)
    return state


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as `DacModel` keeps them: other names, weight norm folded."""
    folded: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith("weight_v"):
            norm = tensor.flatten(1).norm(dim=1)[:, None, None]
            folded[key.replace("weight_v", "weight")] = state[key.replace("weight_v", "weight_g")] * tensor / norm
        elif not key.endswith("weight_g"):
            folded[key] = tensor
    ends = {0: "conv1", 4: "snake1", 5: "conv2"}
    names = {f"encoder.block.{place}": f"encoder.{name}" for place, name in ends.items()}
    names |= {f"decoder.model.{place}": f"decoder.{name}" for place, name in ends.items()}
    inner = ("snake1", "conv1", "snake2", "conv2")
    for level in (1, 2, 3):
        for room, root, first in (("encoder", "encoder.block", 0), ("decoder", "decoder.model", 2)):
            stage = f"{room}.block.{level - 1}"
            for number in range(3):
                for place in range(4):
                    old = f"{root}.{level}.block.{number + first}.block.{place}"
                    names[old] = f"{stage}.res_unit{number + 1}.{inner[place]}"
            snake, conv, name = (3, 4, "conv1") if room == "encoder" else (0, 1, "conv_t1")
            names[f"{root}.{level}.block.{snake}"] = f"{stage}.snake1"
            names[f"{root}.{level}.block.{conv}"] = f"{stage}.{name}"
    renamed = {}
    for key, tensor in folded.items():
        stem, _, name = key.rpartition(".")
        renamed[f"{names.get(stem, stem)}.{name}"] = tensor
    return renamed


@pytest.fixture(scope="module")
def tok() -> DAC:
    return DAC.from_reference(CONFIG, published()).double()


def sound(length: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, length, generator=torch.Generator().manual_seed(length), dtype=torch.float64) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 29, 30, 31, 48, 60, 600, 613])
def test_any_length_comes_back(tok: DAC, length: int) -> None:
    x = sound(length, 2)
    tokens = tok.encode(x)
    assert tokens.indices.shape == (2, -(-length // HOP), 3)
    out = tok.decode(tokens)
    assert out.shape == x.shape
    assert torch.equal(out, tok(x).output)


@torch.no_grad()
def test_samples_that_odd_strides_lose_repeat_the_last(tok: DAC) -> None:
    assert tok.decoder.lost == LOST
    assert zoo.build("dac_24k", device="meta").decoder.lost == 0  # our recipes lose none
    out = tok.decode(tok.encode(sound(10 * HOP)))
    assert torch.equal(out[..., -LOST:], out[..., -LOST - 1 : -LOST].expand(-1, -1, LOST))
    assert not torch.equal(out[..., -LOST - 2], out[..., -LOST - 1])
    whole = DACDecoder(dim=32, width=32, strides=[3, 5, 2]).double()
    whole.load_state_dict(tok.decoder.state_dict())  # the same weights, all samples computed
    latents = tok.code_latents(tok.encode(sound(60 * HOP)))
    assert whole.lost == 0
    before = whole.context[1] * HOP if whole.context else 0
    torch.testing.assert_close(whole(latents)[..., :-before], tok.decoder(latents)[..., :-before], rtol=1e-4, atol=1e-5)


def test_context_is_exactly_what_is_read() -> None:
    torch.manual_seed(0)
    for strides in ([2, 5, 3], [4, 2]):
        encoder = DACEncoder(width=2, strides=strides).double()
        decoder = DACDecoder(dim=3, width=16, strides=strides[::-1], short=True).double()
        hop, place, count = encoder.hop_length, 60, 120
        x = torch.randn(1, 1, count * hop, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(encoder(x)[0, place].sum(), x)
        read = slope[0, 0].nonzero()[:, 0]
        assert encoder.context == (place * hop - int(read[0]), int(read[-1]) - (place + 1) * hop + 1)
        z = torch.randn(1, count, 3, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(decoder(z)[0, 0, place * hop : (place + 1) * hop].sum(), z)
        read = slope[0].abs().sum(1).nonzero()[:, 0]
        assert decoder.context == (place - int(read[0]), int(read[-1]) - place)


@torch.no_grad()
def test_chunks_of_a_long_sound_join_exactly(tok: DAC) -> None:
    x = sound(200 * HOP + 17)
    whole = tok.encode(x)
    pieces = encode_long(tok, x[0], seconds=1.0)
    assert torch.equal(pieces.indices, whole.indices)
    joined = decode_long(tok, whole, seconds=1.0)
    torch.testing.assert_close(joined.read(0, joined.length)[None], tok.decode(whole).float(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_padding_of_a_batch_changes_nothing(tok: DAC) -> None:
    x, lengths = sound(613, 3), torch.tensor([613, 240, 31])
    tokens = tok.encode(x, lengths)
    assert tokens.lengths is not None and tokens.lengths.tolist() == [21, 8, 2]
    out = tok.decode(tokens)
    for item, length in enumerate(lengths.tolist()):
        alone = tok.encode(x[item : item + 1, :, :length])
        assert torch.equal(alone.indices[0], tokens.indices[item, : alone.num_tokens])
        torch.testing.assert_close(out[item, :, :length], tok.decode(alone)[0], rtol=1e-4, atol=1e-5)
        assert not out[item, :, length:].any()


@torch.no_grad()
def test_first_codebooks_decode(tok: DAC) -> None:
    x = sound(300)
    tokens, first = tok.encode(x), tok.encode(x, codebooks=2)
    assert torch.equal(first.indices, tokens.indices[..., :2])
    assert torch.equal(tok.decode(first), tok.decode(tokens.keep_codebooks(2)))
    assert first.bits().item() == 10 * 2 * 4


@torch.no_grad()
def test_published_layouts_are_one_model(tok: DAC) -> None:
    config = {
        "model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [2, 5, 3], "decoder_hidden_size": 32,
        "upsampling_ratios": [3, 5, 2], "hidden_size": 32, "n_codebooks": 3, "codebook_size": 16, "codebook_dim": 4,
        "quantizer_dropout": 0.0, "commitment_loss_weight": 0.25, "codebook_loss_weight": 1.0, "sampling_rate": 600,
        "hop_length": HOP,
    }  # fmt: skip
    x = sound(500, 2)
    wanted = tok.encode(x)
    for other in (
        DAC.from_reference(config, as_transformers(published())),
        DAC.from_reference(CONFIG, published("parametrized")),
        DAC.from_reference({**CONFIG, "codebook_dim": [4, 4, 4]}, published()),
    ):
        other.double()
        assert torch.equal(other.encode(x).indices, wanted.indices)
        torch.testing.assert_close(other.decode(wanted), tok.decode(wanted), rtol=1e-4, atol=1e-4)


def test_trunk_equals_plain_layers(tok: DAC) -> None:
    """A decoder put together from PyTorch's layers and the unconverted weights."""
    state = {key: tensor.double() for key, tensor in as_transformers(published()).items()}

    def conv(x: Tensor, key: str, **options: Any) -> Tensor:
        weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        return nn.functional.conv1d(x, weight, bias, padding="same", **options)

    def snake(x: Tensor, key: str) -> Tensor:
        alpha = state[f"{key}.alpha"]
        return x + (alpha * x).sin() ** 2 / (alpha + 1e-9)

    latents = torch.randn(2, 32, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = conv(latents, "decoder.conv1")
    for level, stride in enumerate((3, 5, 2)):
        key = f"decoder.block.{level}"
        weight, bias = state[f"{key}.conv_t1.weight"], state[f"{key}.conv_t1.bias"]
        x = nn.functional.conv_transpose1d(snake(x, f"{key}.snake1"), weight, bias, stride, (stride + 1) // 2)
        for number, dilation in enumerate((1, 3, 9), 1):
            unit = f"{key}.res_unit{number}"
            y = conv(snake(x, f"{unit}.snake1"), f"{unit}.conv1", dilation=dilation)
            x = x + conv(snake(y, f"{unit}.snake2"), f"{unit}.conv2")
    expected = conv(snake(x, "decoder.snake1"), "decoder.conv2").tanh()
    with torch.no_grad():
        got = tok.decoder(latents.mT)
    assert got.shape[-1] - expected.shape[-1] == LOST
    torch.testing.assert_close(got[..., :-LOST], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_compiles_as_one_graph() -> None:
    torch.manual_seed(0)
    encoder = DACEncoder(width=4, strides=[3])
    decoder = DACDecoder(dim=8, width=8, strides=[3], short=True)
    x = sound(300).float()
    z = encoder(x)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(compiled, z, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")(z)
    torch.testing.assert_close(compiled, decoder(z), rtol=1e-4, atol=1e-5)


def test_configs_and_shapes_that_do_not_fit_are_refused(tok: DAC) -> None:
    with pytest.raises(ValueError, match="products must be equal"):
        DAC.reference_recipe({**CONFIG, "decoder_rates": [3, 5]})
    with pytest.raises(ValueError, match="has no 'encoder_rates'"):
        DAC.from_reference({"encoder_dim": 4}, {})
    with pytest.raises(ValueError, match="multiple of 30"):
        tok.encoder(torch.zeros(1, 1, 40))
    with pytest.raises(ValueError, match="is mono, got stereo"):
        tok.encode(torch.zeros(1, 2, 40))


def test_stereo_goes_with_any_quantizer() -> None:
    node = {
        "_target_": "zoo.families.DAC",
        "sample_rate": 600,
        "encoder": {"_target_": "encoders.DACEncoder", "dim": 3, "channels": 2, "width": 4, "strides": [2, 3]},
        "quantizer": {"_target_": "quantizers.FSQ", "levels": [5, 5, 5]},
        "decoder": {"_target_": "decoders.DACDecoder", "dim": 3, "channels": 2, "width": 16, "strides": [3, 2]},
    }
    tokenizer = build(node)
    x = torch.rand(2, 2, 100) * 2 - 1
    shown = tokenizer.train()(x)
    (shown.output.square().mean() + shown.quantized.loss).backward()
    assert shown.output.shape == x.shape
    assert not [name for name, parameter in tokenizer.named_parameters() if parameter.grad is None]
