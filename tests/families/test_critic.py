"""The critic of TiTok's recipe and its losses."""

from __future__ import annotations

import pytest
import torch

from zoo.objectives.discriminators import PatchCritic
from zoo.objectives.gan import LeCAM, hinge_discriminator_loss, hinge_generator_loss


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (67, 33)])
@pytest.mark.parametrize("blur", [None, 3, 4, 5])
def test_logits_are_a_map_of_16_by_16(size: tuple[int, int], blur: int | None) -> None:
    critic = PatchCritic(channels=32, stages=2, blur=blur)
    assert critic(torch.zeros(2, 3, *size)).shape == (2, 1, 16, 16)


def test_published_size() -> None:
    with torch.device("meta"):
        critic = PatchCritic()
    assert sum(parameter.numel() for parameter in critic.parameters()) == 1_909_889


def test_every_parameter_learns() -> None:
    critic = PatchCritic(channels=32, stages=2)
    hinge_discriminator_loss(critic(torch.randn(2, 3, 32, 32)), critic(torch.randn(2, 3, 32, 32))).backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.5])
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.75))
    assert hinge_generator_loss(fake).item() == pytest.approx(0.75)


def test_lecam_moves_its_averages_only_in_training() -> None:
    lecam = LeCAM(decay=0.9)
    real, fake = torch.full((4,), 2.0, requires_grad=True), torch.full((4,), -1.0)
    loss = lecam(real, fake)
    assert loss.item() == pytest.approx(4 + 1)
    loss.backward()
    assert lecam.ema_real.item() == pytest.approx(0.2)
    assert lecam.ema_fake.item() == pytest.approx(-0.1)
    state = {name: value.clone() for name, value in lecam.state_dict().items()}
    assert lecam.eval()(real, fake).item() == pytest.approx(2.1**2 + 1.2**2)
    assert all(torch.equal(state[name], value) for name, value in lecam.state_dict().items())


def test_impossible_arguments_are_refused() -> None:
    for wrong in ({"stages": 0}, {"channels": 33}, {"blur": 7}):
        with pytest.raises(ValueError, match=r"stages must be|blur size"):
            PatchCritic(**wrong)
    with pytest.raises(ValueError, match="decay"):
        LeCAM(decay=1.0)
    with pytest.raises(ValueError, match="num_channels=1"):
        PatchCritic.from_reference({"num_channels": 1}, {})
