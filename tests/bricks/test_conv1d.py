"""Convolutions along time: every way to compute them gives the same, alone, in a ragged batch or piece by piece."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import SEANetDecoder
from encoders import SEANetEncoder
from encoders.layers import channels_last
from encoders.layers.channels_last import lies_last
from encoders.layers.conv1d import Conv1d, TransposedConv1d, pad_edges
from encoders.layers.seanet import ChannelSnake
from encoders.layers.streaming import Stream

KINDS = {
    "encodec": {},
    "centred": {"causal": False},
    "normed": {"causal": False, "norm": True},
    "mimi": {"edges": "constant", "conv_shortcut": False, "lstm": 0, "last_kernel": 3},
    "replicate": {"edges": "replicate", "depth": 2},
    "snake": {"causal": False, "activation": "snake", "lstm": 0},
}


def parts(width: int = 4, **options: object) -> tuple[SEANetEncoder, SEANetDecoder]:
    torch.manual_seed(0)
    both_ways = {"bidirectional": True} if options.get("causal") is False and "lstm" not in options else {}
    encoder = SEANetEncoder(dim=8, width=width, strides=(2, 5), **both_ways, **options)  # type: ignore[arg-type]
    return encoder.eval(), SEANetDecoder(dim=8, width=width, strides=(5, 2), **options).eval()  # type: ignore[arg-type]


def near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("length", [1, 3, 50, 61])
@pytest.mark.parametrize("causal", [True, False])
def test_windows_are_whole_and_mirrored(causal: bool, length: int) -> None:
    conv = Conv1d(2, 3, 6, stride=3, causal=causal)
    x = torch.randn(2, 2, length)
    extra = -length % 3
    before, after = (3, 0) if causal else (2, 1)
    longer = F.pad(x, (0, max(0, before + 1 - length, extra + after + 1 - length)))
    padded = F.pad(longer, (before, after + extra), mode="reflect")[..., : before + length + after + extra]
    expected = F.conv1d(padded, conv.weight, conv.bias, stride=3)
    assert expected.shape[-1] == -(-length // 3)
    near(conv(x), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [800, 807])
def test_layouts_agree(kind: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels side by side, which large signals have on a CPU, change the speed and nothing else."""
    encoder, decoder = parts(16, **KINDS[kind])
    x = torch.randn(2, 1, length)
    plain = encoder(x)
    with torch.no_grad():
        near(encoder(x), plain)
        sound = decoder(plain)
        for name in ("NARROW", "SIGNAL", "WEIGHT"):
            monkeypatch.setattr(channels_last, name, 0)
        assert kind == "mimi" or lies_last(encoder.stages[0](encoder.stem(x)))
        near(encoder(x), plain)
        near(decoder(plain), sound)
    near(encoder(x), plain)
    encoder(x).square().mean().backward()
    assert encoder.stem.weight.grad is not None and encoder.stem.weight.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_items_are_as_alone(kind: str) -> None:
    encoder, decoder = parts(**KINDS[kind])
    x, lengths = torch.randn(3, 1, 103), torch.tensor([103, 57, 3])
    counts = -(-lengths // 10)
    with torch.no_grad():
        z = encoder(x, lengths)
        sound = decoder(z, counts)
        for item, (end, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
            alone = encoder(x[item : item + 1, :, :end])
            near(z[item, :count], alone[0])
            near(sound[item, :, : count * 10], decoder(alone)[0])


@pytest.mark.parametrize("options", [{}, {"causal": False}, {"edges": "constant", "last_kernel": 3, "depth": 2}])
def test_context_is_what_counts(options: dict[str, object]) -> None:
    encoder, decoder = parts(lstm=0, **options)
    assert encoder.context is not None and decoder.context is not None
    x, z = torch.randn(1, 1, 600), torch.randn(1, 60, 8)
    changed, other = x.clone(), z.clone()
    changed[..., 300:310] += 1
    other[:, 30] += 1
    with torch.no_grad():
        moved = (encoder(changed) != encoder(x)).any(-1)[0].nonzero().flatten() * 10
        heard = (decoder(other) != decoder(z)).any(1)[0].nonzero().flatten() // 10
    before, after = encoder.context
    assert moved.min() >= 300 - after - 9 and moved.max() <= 309 + before
    before, after = decoder.context
    assert 30 - heard.min() <= after and heard.max() - 30 <= before
    assert causal_side(encoder.context) == causal_side(decoder.context) == options.get("causal", True)


def causal_side(context: tuple[int, int]) -> bool:
    return context[1] == 0


@pytest.mark.parametrize(
    "layer",
    [
        Conv1d(3, 4, 7, dilation=2, causal=True),
        Conv1d(3, 4, 8, stride=4, causal=True, edges="constant"),
        Conv1d(3, 4, 4, stride=2, causal=True, edges="replicate"),
        TransposedConv1d(3, 4, 8, stride=4, causal=True),
        TransposedConv1d(3, 3, 4, stride=2, groups=3, bias=False, causal=True),
    ],
    ids=["dilated", "strided", "replicate", "transposed", "depthwise"],
)
@pytest.mark.parametrize("length", [1, 5, 31, 64])
@pytest.mark.parametrize("step", [1, 3, 64])
def test_layers_stream(layer: Conv1d | TransposedConv1d, length: int, step: int) -> None:
    x, stream, pieces = torch.randn(2, 3, length), Stream(), []
    with torch.no_grad():
        for start in range(0, length, step):
            pieces.append(layer(x[..., start : start + step], stream=stream))
        stream.last = True
        pieces.append(layer(x[..., :0], stream=stream))
        near(torch.cat(pieces, dim=-1), layer(x))


def test_what_cannot_stream_says_so() -> None:
    for layer in (Conv1d(1, 1, 3), Conv1d(1, 1, 3, causal=True, norm=True), TransposedConv1d(1, 1, 4, stride=2)):
        with pytest.raises(ValueError, match="causal"):
            layer(torch.zeros(1, 1, 4), stream=Stream())
    with pytest.raises(ValueError, match="mirrored"):
        Conv1d(1, 1, 4, stride=4, causal=True)(torch.zeros(1, 1, 4), stream=Stream())


def test_wrong_options_are_named() -> None:
    for match, make in (
        ("stride", lambda: Conv1d(1, 1, 2, stride=3)),
        ("edges", lambda: Conv1d(1, 1, 3, edges="zero")),  # type: ignore[arg-type]
        ("gaps", lambda: TransposedConv1d(1, 1, 2, stride=3)),
        ("activation", lambda: SEANetEncoder(activation="relu")),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_short_signals_are_extended_by_zeros() -> None:
    x = torch.tensor([[[1.0, 2.0]]])
    assert pad_edges(x, 3, 0, "reflect").tolist() == [[[0, 0, 2, 1, 2]]]
    assert pad_edges(x, 1, 1, "reflect").tolist() == [[[2, 1, 2, 1]]]


def test_snake_of_channels() -> None:
    snake = ChannelSnake(3)
    snake.alpha.data = torch.tensor([0.5, 1.0, 2.0])
    x, alpha = torch.randn(2, 3, 50), snake.alpha.detach()[:, None]
    expected = x + (alpha * x).sin().square() / alpha
    near(snake(x), expected)
    with torch.no_grad():
        near(snake(x), expected)
