"""Mimi: both published layouts, streams, batches of different lengths, and numbers of codebooks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decoders import MimiDecoder, SEANetDecoder
from encoders import MimiEncoder, SEANetEncoder
from quantizers import VQ
from zoo.families import AudioCodec, Mimi
from zoo.store.build import build
from zoo.tokens import Tokens

HEADS, WIDTH, CODES = 4, 32, 16
MOSHI: dict[str, Any] = {
    "sample_rate": 800,
    "frame_rate": 50,
    "seanet": {
        "channels": 1, "dimension": WIDTH, "causal": True, "n_filters": 2, "n_residual_layers": 2, "activation": "ELU",
        "compress": 2, "dilation_base": 2, "disable_norm_outer_blocks": 0, "kernel_size": 7, "residual_kernel_size": 3,
        "last_kernel_size": 3, "norm": "none", "pad_mode": "constant", "ratios": [4, 2], "true_skip": True,
    },
    "quantizer": {
        "dimension": 8, "n_q": 4, "n_q_semantic": 1, "bins": CODES, "input_dimension": WIDTH, "output_dimension": WIDTH,
    },
    "transformer": {
        "d_model": WIDTH, "num_heads": HEADS, "num_layers": 2, "causal": True, "layer_scale": 0.01, "context": 5,
        "conv_layout": True, "max_period": 10000, "gating": "none", "norm": "layer_norm",
        "positional_embedding": "rope", "dim_feedforward": 48, "input_dimension": WIDTH, "output_dimensions": [WIDTH],
    },
}  # fmt: skip
TRANSFORMERS: dict[str, Any] = {
    "model_type": "mimi", "sampling_rate": 800, "_frame_rate": None, "audio_channels": 1, "hidden_size": WIDTH,
    "num_filters": 2, "num_residual_layers": 2, "upsampling_ratios": [4, 2], "kernel_size": 7, "last_kernel_size": 3,
    "residual_kernel_size": 3, "dilation_growth_rate": 2, "use_causal_conv": True, "pad_mode": "constant",
    "compress": 2, "trim_right_ratio": 1.0, "codebook_size": CODES, "codebook_dim": 8, "num_quantizers": 4,
    "use_conv_shortcut": False, "vector_quantization_hidden_dimension": 8, "num_semantic_quantizers": 1,
    "upsample_groups": WIDTH, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS, "hidden_act": "gelu", "norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "sliding_window": 5, "attention_bias": False,
    "layer_scale_initial_scale": 0.01,
}  # fmt: skip


def published() -> dict[str, Tensor]:
    """Random weights under moshi's keys."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        fan = max(1, torch.Size(shape[1:]).numel())
        return torch.randn(shape, generator=generator) * fan**-0.5

    state: dict[str, Tensor] = {}

    def conv(key: str, *shape: int) -> None:
        state[f"{key}.weight"] = draw(*shape)
        state[f"{key}.bias"] = draw(shape[1] if "convtr" in key else shape[0])

    def blocks(side: str, first: int, width: int) -> None:
        for number in (first, first + 1):
            conv(f"{side}.model.{number}.block.1.conv.conv", width // 2, width, 3)
            conv(f"{side}.model.{number}.block.3.conv.conv", width, width // 2, 1)

    conv("encoder.model.0.conv.conv", 2, 1, 7)
    blocks("encoder", 1, 2)
    conv("encoder.model.4.conv.conv", 4, 2, 4)
    blocks("encoder", 5, 4)
    conv("encoder.model.8.conv.conv", 8, 4, 8)
    conv("encoder.model.10.conv.conv", WIDTH, 8, 3)
    conv("decoder.model.0.conv.conv", 8, WIDTH, 7)
    conv("decoder.model.2.convtr.convtr", 8, 4, 8)
    blocks("decoder", 3, 4)
    conv("decoder.model.6.convtr.convtr", 4, 2, 4)
    blocks("decoder", 7, 2)
    conv("decoder.model.10.conv.conv", 1, 2, 3)
    for side in ("encoder", "decoder"):
        for number in (0, 1):
            layer = f"{side}_transformer.transformer.layers.{number}."
            state[f"{layer}self_attn.in_projs.0.weight"] = 3 * draw(3 * WIDTH, WIDTH)
            state[f"{layer}self_attn.out_projs.0.weight"] = draw(WIDTH, WIDTH)
            state[f"{layer}linear1.weight"], state[f"{layer}linear2.weight"] = draw(48, WIDTH), draw(WIDTH, 48)
            for name in ("1", "2"):
                state[f"{layer}layer_scale_{name}.scale"] = 0.5 + draw(WIDTH).abs()
                state[f"{layer}norm{name}.weight"], state[f"{layer}norm{name}.bias"] = 1 + draw(WIDTH), draw(WIDTH)
    for half, levels in (("rvq_first", 1), ("rvq_rest", 3)):
        state[f"quantizer.{half}.input_proj.weight"] = draw(8, WIDTH, 1)
        state[f"quantizer.{half}.output_proj.weight"] = draw(WIDTH, 8, 1)
        for level in range(levels):
            book = f"quantizer.{half}.vq.layers.{level}._codebook."
            usage = torch.rand(CODES, generator=generator) + 0.5
            state |= {f"{book}_initialized": torch.ones(1), f"{book}cluster_usage": usage}
            state[f"{book}embedding_sum"] = 3 * draw(CODES, 8) * usage[:, None]
    state["downsample.conv.conv.conv.weight"] = draw(WIDTH, WIDTH, 4)
    state["upsample.convtr.convtr.convtr.weight"] = draw(WIDTH, 1, 4)
    return state


def halves(weight: Tensor) -> Tensor:
    """Rows of a map to queries or keys, from neighbouring pairs to halves of a head."""
    return rearrange(weight, "(h i two) w -> (h two i) w", h=HEADS, two=2)


def as_transformers(state: dict[str, Tensor], nested: bool) -> dict[str, Tensor]:
    """The same weights as transformers keeps them, in its present (nested) or its first layout."""
    outer, sea = ({"en": "encoder.", "de": "decoder."}, "_seanet") if nested else ({"en": "", "de": ""}, "")
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        side = key[:2]
        if "in_projs" in key:
            stem = f"{outer[side]}{key[:7]}_transformer.{key.split('.', 2)[2].replace('in_projs.0.weight', '')}"
            q, k, v = value.chunk(3)
            renamed |= {f"{stem}q_proj.weight": halves(q), f"{stem}k_proj.weight": halves(k), f"{stem}v_proj.weight": v}
            continue
        for theirs, new in {
            "transformer.transformer": "transformer", "out_projs.0": "o_proj", "linear1": "mlp.fc1",
            "linear2": "mlp.fc2", "layer_scale_1": "self_attn_layer_scale", "layer_scale_2": "mlp_layer_scale",
            "norm1": "input_layernorm", "norm2": "post_attention_layernorm", "convtr.convtr.convtr": "conv",
            "conv.conv.conv": "conv", "conv.conv": "conv", "convtr.convtr": "conv", ".model.": f"{sea}.layers.",
            "rvq_first": "semantic_residual_vector_quantizer", "rvq_rest": "acoustic_residual_vector_quantizer",
            ".vq.": ".", "._codebook._": ".codebook.", "._codebook.": ".codebook.", "embedding_sum": "embed_sum",
        }.items():  # fmt: skip
            key = key.replace(theirs, new)
        side = {"do": "en", "up": "de"}.get(side, side)
        renamed[outer.get(side, "") + key] = value
    return renamed


@pytest.fixture(scope="module")
def tok() -> Mimi:
    return Mimi.from_reference(MOSHI, published())


def sound(samples: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, samples, generator=torch.Generator().manual_seed(samples)) * 2 - 1


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-5 of the largest magnitude."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("nested", [True, False])
def test_all_layouts_are_one_model(tok: Mimi, nested: bool) -> None:
    other = Mimi.from_reference(TRANSFORMERS, as_transformers(published(), nested))
    x = sound(700, 2)
    with torch.no_grad():
        torch.testing.assert_close(other.encode_latents(tok.pad(x)), tok.encode_latents(tok.pad(x)))
        tokens = tok.encode(x)
        assert other.encode(x).equal(tokens)
        assert_near(other.decode(tokens), tok.decode(tokens))


def test_older_names_of_moshi_are_read(tok: Mimi) -> None:
    older = {key.replace("in_projs.0.weight", "in_proj_weight"): value for key, value in published().items()}
    older = {key.replace("out_projs.0", "out_proj"): value for key, value in older.items()}
    assert Mimi.convert(older).keys() == Mimi.convert(published()).keys() == tok.state_dict().keys()


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=8))
def test_a_stream_in_any_pieces_is_the_whole(tok: Mimi, pieces: list[int]) -> None:
    total = sum(pieces)
    x = sound(max(total, 1), 2)[..., :total]
    with tok.streaming(batch=2) as stream, torch.no_grad():
        parts = [stream.encode(piece) for piece in x.split(pieces, dim=-1)] + [stream.finish_encode()]
        indices = torch.cat([part.indices for part in parts], dim=1)
        assert indices.shape[1] == -(-total // tok.hop_length)
        if not total:
            return
        tokens = tok.encode(x)
        assert torch.equal(indices, tokens.indices)
        heard = [stream.decode(part) for part in parts] + [stream.finish_decode()]
        assert_near(torch.cat(heard, dim=-1), tok.decode(tokens))


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_tokens_decode_in_any_pieces(tok: Mimi, pieces: list[int]) -> None:
    indices = torch.randint(CODES, (1, sum(pieces), 4), generator=torch.Generator().manual_seed(1))
    with tok.streaming() as stream, torch.no_grad():
        parts = [stream.decode(Tokens(part, (CODES,) * 4, order="time")) for part in indices.split(pieces, dim=1)]
        for part, count in zip(parts, pieces, strict=True):
            assert part.shape[-1] == count * tok.hop_length, "no sound is kept back"
        whole = tok.decode(Tokens(indices, (CODES,) * 4, order="time"))
        assert_near(torch.cat(parts, dim=-1), whole)


def test_latency_is_one_frame(tok: Mimi) -> None:
    assert tok.latency == tok.hop_length == 16
    assert build("mimi", device="meta").latency == 1920  # type: ignore[attr-defined]


def test_context_is_exact(tok: Mimi) -> None:
    """The first output that a change far back no longer reaches."""
    (before, after), hop = tok.encoder.context, tok.hop_length
    length = -(-(before + 4 * hop) // hop) * hop
    x = sound(length).requires_grad_()
    last = tok.encoder(x)[0, -1].square().sum()
    (gradient,) = torch.autograd.grad(last, x)
    reached = gradient[0, 0].nonzero()[:, 0]
    assert (reached.min().item(), after) == (length - hop - before, 0)
    before, after = tok.decoder.context
    z = torch.randn(1, before + 4, WIDTH, requires_grad=True)
    token = tok.decoder(z)[..., -hop:].square().sum()
    (gradient,) = torch.autograd.grad(token, z)
    reached = gradient[0].abs().sum(-1).nonzero()[:, 0]
    assert reached.min().item() >= z.shape[1] - 1 - before and after == 0


def test_padding_changes_nothing(tok: Mimi) -> None:
    lengths = torch.tensor([320, 7, 161])
    x = sound(320, 3)
    with torch.no_grad():
        tokens = tok.encode(x, lengths)
        out = tok.decode(tokens)
        for item, length in enumerate(lengths.tolist()):
            alone = tok.encode(x[item : item + 1, :, :length])
            count = alone.num_tokens
            assert torch.equal(tokens.indices[item, :count], alone.indices[0])
            assert_near(out[item, :, :length], tok.decode(alone)[0])
            assert not out[item, :, length:].any()


def test_first_codebooks_decode(tok: Mimi) -> None:
    x = sound(320)
    with torch.no_grad():
        full, two = tok.encode(x), tok.encode(x, codebooks=2)
        assert torch.equal(two.indices, full.indices[..., :2])
        assert two.bits().item() == full.bits().item() / 2
        assert not torch.equal(tok.decode(two), tok.decode(full))
    with pytest.raises(ValueError, match="1 to 4"):
        tok.encode(x, codebooks=5)


def test_the_transformers_join_any_causal_codec() -> None:
    torch.manual_seed(0)
    size: dict[str, Any] = {"depth": 1, "heads": 2, "hidden": 16, "context": 4, "stride": 3}
    sea: dict[str, Any] = {"dim": 8, "width": 2, "lstm": 1}
    codec = AudioCodec(
        MimiEncoder(SEANetEncoder(**sea, strides=(2, 2)), dim=5, **size),
        VQ(5, 8),
        MimiDecoder(SEANetDecoder(**sea, strides=(2, 2)), dim=5, **size),
        sample_rate=100,
    ).train()
    assert codec.hop_length == 12 and codec.encoder.context is None and codec.decoder.context is None
    shown = codec(sound(100))
    (shown.output.square().mean() + shown.quantized.loss).backward()
    assert not [name for name, parameter in codec.named_parameters() if parameter.grad is None]
    for part, room in ((MimiEncoder, SEANetEncoder), (MimiDecoder, SEANetDecoder)):
        with pytest.raises(ValueError, match="causal"):
            part(room(**sea, causal=False), **size)


def test_compiles_as_one_graph(tok: Mimi) -> None:
    x = sound(320)
    with torch.no_grad():
        z = tok.encoder(x)
        compiled = torch.compile(tok.encoder, fullgraph=True, backend="eager")(x)
        assert_near(compiled, z)
        compiled = torch.compile(tok.decoder, fullgraph=True, backend="eager")(z)
        assert_near(compiled, tok.decoder(z))


@pytest.mark.parametrize(
    ("config", "path", "value", "message"),
    [
        (MOSHI, ("seanet", "norm"), "weight_norm", "norm="),
        (MOSHI, ("transformer", "gating"), "silu", "gating="),
        (MOSHI, ("transformer", "d_model"), 64, "one width"),
        (TRANSFORMERS, ("pad_mode",), "reflect", "pad_mode="),
        (TRANSFORMERS, ("num_key_value_heads",), 2, "key heads"),
        (TRANSFORMERS, ("upsample_groups",), 1, "each channel on its own"),
    ],
)
def test_other_architectures_are_refused(config: Any, path: tuple[str, ...], value: Any, message: str) -> None:
    changed = copy.deepcopy(config)
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        Mimi.reference_recipe(changed)


def test_incomplete_files_are_named() -> None:
    state = published()
    del state["quantizer.rvq_rest.vq.layers.1._codebook.cluster_usage"]
    with pytest.raises(RuntimeError, match=r"rvq_rest\.vq\.layers\.1|levels\.1"):
        Mimi.from_reference(MOSHI, state)
    halved = as_transformers(published(), nested=True)
    del halved["encoder.encoder_transformer.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match="beside that to queries"):
        Mimi.from_reference(TRANSFORMERS, halved)
