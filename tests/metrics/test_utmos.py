"""UTMOS: a checkpoint in the published layout goes in strictly, and scores are those of a forward pass by hand."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.metrics import utmos
from zoo.metrics.utmos import FILE, SPACE, UTMOS, UTMOSNet, convert, load_utmos, read_checkpoint

pytest.importorskip("transformers")

SSL = "feature_extractors.0.ssl_model."
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def shapes() -> dict[str, tuple[int, ...]]:
    """Of every tensor of the published checkpoint: fairseq's wav2vec 2.0 base without pretraining, and the heads."""
    found: dict[str, tuple[int, ...]] = {f"{SSL}mask_emb": (768,)}
    for number, kernel in enumerate(KERNELS):
        found[f"{SSL}feature_extractor.conv_layers.{number}.0.weight"] = (512, 512 if number else 1, kernel)
    norms = {"feature_extractor.conv_layers.0.2": 512, "layer_norm": 512, "encoder.layer_norm": 768}
    linear = {"post_extract_proj": (768, 512)}
    for layer in (f"encoder.layers.{number}" for number in range(12)):
        linear |= {f"{layer}.self_attn.{side}_proj": (768, 768) for side in ("k", "v", "q", "out")}
        linear |= {f"{layer}.fc1": (3072, 768), f"{layer}.fc2": (768, 3072)}
        norms |= {f"{layer}.self_attn_layer_norm": 768, f"{layer}.final_layer_norm": 768}
    for name, width in norms.items():
        found |= {f"{SSL}{name}.{kind}": (width,) for kind in ("weight", "bias")}
    for name, (wide, narrow) in linear.items():
        found |= {f"{SSL}{name}.weight": (wide, narrow), f"{SSL}{name}.bias": (wide,)}
    found |= {f"{SSL}encoder.pos_conv.0.weight_g": (1, 1, 128), f"{SSL}encoder.pos_conv.0.weight_v": (768, 48, 128)}
    found |= {f"{SSL}encoder.pos_conv.0.bias": (768,), "feature_extractors.1.embedding.weight": (3, 128)}
    found |= {"output_layers.0.judge_embedding.weight": (3000, 128)}
    for end in ("", "_reverse"):
        for kind, shape in (
            ("weight_ih", (2048, 1024)),
            ("weight_hh", (2048, 512)),
            ("bias_ih", (2048,)),
            ("bias_hh", (2048,)),
        ):
            found[f"output_layers.0.decoder_rnn.{kind}_l0{end}"] = shape
    found |= {"output_layers.1.net.0.weight": (2048, 1024), "output_layers.1.net.0.bias": (2048,)}
    return found | {"output_layers.1.net.3.weight": (1, 2048), "output_layers.1.net.3.bias": (1,)}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Seeded weights that keep activations near 1."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name, shape in shapes().items():
        x = torch.randn(shape, generator=generator)
        norm = len(shape) == 1 and name.endswith("weight")
        found[name] = 1 + 0.1 * x if norm else x * (0.1 if len(shape) == 1 else 1.5 / math.sqrt(math.prod(shape[1:])))
    found[f"{SSL}encoder.pos_conv.0.weight_g"] = 1 + torch.rand(1, 1, 128, generator=generator)
    return {name: value.half() for name, value in found.items()}


class Trap:
    """What a checkpoint of somebody else might hold beside its weights."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Lightning checkpoint with things that are no tensors."""
    folder = tmp_path_factory.mktemp("hub")
    path = folder / SPACE / FILE
    path.parent.mkdir(parents=True)
    beside = {"callbacks": {Trap: 1}, "hyper_parameters": Trap(str(folder / "trapped")), "epoch": 3}
    torch.save({"state_dict": state, **beside}, path)
    yield path
    load_utmos.cache_clear()


def sounds(count: int, length: int) -> Tensor:
    return 0.3 * torch.randn(count, length, generator=torch.Generator().manual_seed(1))


def test_the_published_tensors_are_all_that_the_network_has(state: dict[str, Tensor]) -> None:
    ours = {name: tuple(value.shape) for name, value in UTMOSNet().state_dict().items()}
    assert {name: tuple(value.shape) for name, value in convert(state).items()} == ours
    assert len(ours) == 224  # as others count in the published file, mask vector aside
    with pytest.raises(ValueError, match="names of the UTMOS checkpoint"):
        convert({"encoder.weight": torch.zeros(1)})


def test_score_is_that_of_a_forward_pass_by_hand(checkpoint: Path, state: dict[str, Tensor]) -> None:
    x = sounds(2, 4000)
    found = load_utmos(checkpoint)(x)
    assert (found[0] - found[1]).abs() > 1e-4
    expected = torch.stack(
        [by_hand({name: value.double() for name, value in state.items()}, one.double()) for one in x]
    )
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_metric_averages_and_is_not_touched_by_neighbours(checkpoint: Path) -> None:
    x = sounds(3, 4000)[:, None]
    lengths = torch.tensor([4000, 3000, 200])
    together, alone = UTMOS(16000, weights=checkpoint), UTMOS(16000, weights=checkpoint)
    together.update(x, torch.zeros_like(x), lengths)
    for item, length in enumerate(lengths.tolist()):
        alone.update(x[item : item + 1, :, :length], x[item : item + 1, :, :length])
    torch.testing.assert_close(together.compute(), alone.compute(), rtol=0, atol=1e-6)
    assert together.count == 2 and together.skipped == 1  # 200 samples are less than a frame
    net = load_utmos(checkpoint)
    expected = (net(x[0].clamp(-1, 1)) + net(x[1, :, :3000].clamp(-1, 1))) / 2
    torch.testing.assert_close(together.compute(), expected[0].double(), rtol=0, atol=1e-6)
    details = together.details()
    assert len(details["sha256"]) == 64 and details["published weights"] is False and details["judge"] == 288


def test_nothing_but_tensors_is_read(checkpoint: Path, tmp_path: Path) -> None:
    assert read_checkpoint(checkpoint).keys() == shapes().keys()
    assert not (checkpoint.parents[2] / "trapped").exists()
    with pytest.raises(ValueError, match="only tensors"):
        path = tmp_path / "other.ckpt"
        torch.save({"state_dict": {"a": Trap(str(tmp_path / "b"))}}, path)
        read_checkpoint(path)
    assert not (tmp_path / "b").exists()
    path.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"other\.ckpt"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"other\.ckpt"):
        read_checkpoint(path)


def test_published_weights_come_from_the_hub_and_are_checked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_HUB", str(checkpoint.parents[2]))
    with pytest.raises(ValueError, match="expected sha256 44c57e3e"):
        UTMOS(16000)
    monkeypatch.setattr(utmos, "SHA256", utmos.digest_of(checkpoint))
    assert UTMOS(24000).details()["network"] == f"{SPACE}/{FILE}"
    monkeypatch.setenv("ZOO_HUB", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"UTMOS needs epoch=3-step=7459.ckpt.*--weights utmos=FILE"):
        UTMOS(16000)
    with pytest.raises(FileNotFoundError, match="no weight file"):
        UTMOS(16000, weights=tmp_path / "none.ckpt")


def test_a_space_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, object] = {}

    def download(repo: str, file: str, **options: object) -> str:
        asked.update(options, repo=repo, file=file)
        raise ConnectionResetError("gone")

    monkeypatch.delenv("ZOO_HUB", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ConnectionError, match="--weights utmos=FILE"):
        UTMOS(16000)
    assert asked["repo_type"] == "space" and asked["repo"] == SPACE and asked["file"] == FILE


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The score of one sound (T,), from the weights under their published names."""
    ssl = {name.removeprefix(SSL): value for name, value in state.items()}

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ ssl[f"{name}.weight"].T + ssl[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, value.shape[-1:], ssl[f"{name}.weight"], ssl[f"{name}.bias"])

    x = x[None]
    for number, stride in enumerate(STRIDES):
        x = F.conv1d(x, ssl[f"feature_extractor.conv_layers.{number}.0.weight"], stride=stride)
        if number == 0:  # each channel has mean 0 and variance 1 over time
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            name = "feature_extractor.conv_layers.0.2"
            x = x * ssl[f"{name}.weight"][:, None] + ssl[f"{name}.bias"][:, None]
        x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    x = linear("post_extract_proj", norm("layer_norm", x.T))
    direction, size = (ssl[f"encoder.pos_conv.0.weight_{part}"] for part in "vg")
    kernel = size * direction / direction.square().sum((0, 1), keepdim=True).sqrt()
    place = F.conv1d(x.T, kernel, ssl["encoder.pos_conv.0.bias"], padding=64, groups=16)[:, :-1]
    x = norm("encoder.layer_norm", x + F.gelu(place).T)
    for layer in (f"encoder.layers.{number}" for number in range(12)):
        q, k, v = (linear(f"{layer}.self_attn.{side}_proj", x).unflatten(1, (12, 64)) for side in "qkv")
        weights = torch.einsum("thd,shd->hts", q / 8, k).softmax(-1)
        x = norm(
            f"{layer}.self_attn_layer_norm",
            x + linear(f"{layer}.self_attn.out_proj", torch.einsum("hts,shd->thd", weights, v).flatten(1)),
        )
        x = norm(f"{layer}.final_layer_norm", x + linear(f"{layer}.fc2", F.gelu(linear(f"{layer}.fc1", x))))
    beside = torch.cat(
        [state["feature_extractors.1.embedding.weight"][0], state["output_layers.0.judge_embedding.weight"][288]]
    )
    x = torch.cat([x, beside.expand(len(x), -1)], 1)
    states = []
    for end, steps in (("", range(len(x))), ("_reverse", reversed(range(len(x))))):
        part = {
            kind: state[f"output_layers.0.decoder_rnn.{kind}_l0{end}"]
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        hidden = cell = x.new_zeros(512)
        rows = {}
        for step in steps:
            gates = part["weight_ih"] @ x[step] + part["bias_ih"] + part["weight_hh"] @ hidden + part["bias_hh"]
            into, forget, new, out = gates.chunk(4)
            cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            rows[step] = hidden
        states.append(torch.stack([rows[step] for step in range(len(x))]))
    x = torch.cat(states, 1)
    x = (x @ state["output_layers.1.net.0.weight"].T + state["output_layers.1.net.0.bias"]).relu()
    return (x @ state["output_layers.1.net.3.weight"].T + state["output_layers.1.net.3.bias"]).mean() * 2 + 3
