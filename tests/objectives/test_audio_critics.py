"""Critics of waveforms, the games they play, and the balancer."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoo.objectives import (
    Adversary,
    Balancer,
    MultiBandCritic,
    MultiPeriodCritic,
    MultiResolutionCritic,
    MultiScaleCritic,
    MultiScaleSTFTCritic,
)
from zoo.objectives.audio.critic import AudioCritic
from zoo.objectives.audio.spectrum import Waveform

CRITICS: dict[str, Callable[[], AudioCritic]] = {
    "periods": partial(MultiPeriodCritic, (2, 3), channels=(4, 8)),
    "periods_conditioned": partial(MultiPeriodCritic, (2, 3), channels=(4, 8), conditions=2),
    "scales": partial(MultiScaleCritic, 3, channels=16),
    "resolutions": partial(MultiResolutionCritic, ((256, 64), (128, 32)), channels=4),
    "stft": partial(MultiScaleSTFTCritic, (256, 128), channels=4),
    "bands": partial(MultiBandCritic, (256, 128), channels=4),
    "bands_centered": partial(MultiBandCritic, (256,), channels=4, framing="center"),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.fixture(params=CRITICS)
def critic(request: pytest.FixtureRequest) -> AudioCritic:
    torch.manual_seed(0)
    return CRITICS[request.param]()


@pytest.mark.parametrize("loss", ["hinge", "least_squares"])
def test_every_parameter_learns(critic: AudioCritic, loss: str) -> None:
    adversary = Adversary(critic, loss=loss)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in critic.named_parameters()}
    optimizer = torch.optim.SGD(critic.parameters(), lr=1e-2)
    for step in range(2):  # a projected embedding starts at 0 and needs a first step
        x = Waveform(noise(2, 1, 3000, seed=step))
        # far apart, and other than 1: hinges of logits within (-1, 1) cancel in the bias of a head
        terms = adversary.push(x, Waveform(noise(2, 1, 3000, seed=9) * 40))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    for name, value in critic.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), name
        if loss == "least_squares" or not name.endswith("head.bias"):
            assert not torch.equal(value, before[name]), name


def test_a_few_steps_tell_real_from_fake(critic: AudioCritic) -> None:
    adversary = Adversary(critic, loss="least_squares")
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    real, fake = Waveform(noise(2, 1, 600)), Waveform(torch.sin(torch.arange(600) / 5).expand(2, 1, -1) * 0.3)
    losses = []
    for _ in range(6):
        losses.append(adversary.push(real, fake)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


def test_gradient_reaches_the_waveform_and_features_match_themselves(critic: AudioCritic) -> None:
    adversary, x = Adversary(critic.eval()), noise(2, 1, 3000)
    same = adversary.pull(Waveform(x), Waveform(x.clone()))
    assert same["features"] == 0
    y = noise(2, 1, 3000, seed=1).requires_grad_()
    terms = adversary.pull(Waveform(x), Waveform(y))
    assert terms["features"] > 0
    for value in terms.values():
        (gradient,) = torch.autograd.grad(value, y, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("length", [1, 2999])
def test_any_length_and_silence(critic: AudioCritic, length: int) -> None:
    for x in (torch.zeros(1, 1, length), noise(1, 1, length)):
        x.requires_grad_()
        adversary = Adversary(critic, normalize=True)
        terms = adversary.pull(Waveform(noise(1, 1, length, seed=3)), Waveform(x))
        (gradient,) = torch.autograd.grad(sum(terms.values()), x)
        assert gradient.isfinite().all()


def test_stereo_is_two_recordings_except_where_it_is_judged_together(critic: AudioCritic) -> None:
    if isinstance(critic, MultiScaleSTFTCritic):
        with pytest.raises(ValueError, match="set audio_channels"):
            critic(noise(2, 2, 1000))
        verdicts = MultiScaleSTFTCritic((256,), channels=4, audio_channels=2)(noise(3, 2, 1000))
        assert verdicts[0].logits.shape[0] == 3
        return
    x = noise(3, 2, 1000)
    for both, apart in zip(critic.eval()(x), critic(x.reshape(6, 1, -1)), strict=True):
        torch.testing.assert_close(both.logits, apart.logits)
        assert len(both.logits) == 6


def test_autocast_leaves_spectra_in_float32(critic: AudioCritic, monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes, real = [], torch.stft
    monkeypatch.setattr(torch, "stft", lambda x, *a, **k: dtypes.append(x.dtype) or real(x, *a, **k))
    adversary, y = Adversary(critic), noise(2, 1, 2000, seed=1).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = adversary.pull(Waveform(noise(2, 1, 2000)), Waveform(y))
        pushed = adversary.push(Waveform(noise(2, 1, 2000)), Waveform(y).detach())
    assert set(dtypes) <= {torch.float32}
    assert all(value.dtype == torch.float32 and value.isfinite() for value in (*terms.values(), *pushed.values()))
    sum(terms.values()).backward()
    assert y.grad is not None and y.grad.isfinite().all()


def test_copies_and_state(critic: AudioCritic) -> None:
    x = noise(1, 1, 1500)
    critic.eval()
    twin = copy.deepcopy(critic)
    twin.load_state_dict(critic.state_dict())
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(critic(x), twin(x), strict=True))
    assert not any("window" in name for name in critic.state_dict())


def test_adversarial_forms() -> None:
    net = MultiPeriodCritic((2, 3), channels=(4,))
    real, fake = Waveform(noise(1, 1, 500)), Waveform(noise(1, 1, 500, seed=1))
    reals, fakes = [v.logits for v in net(real)], [v.logits for v in net(fake)]
    hinge = Adversary(net)
    expected = [(1 - r).relu().mean() + (1 + f).relu().mean() for r, f in zip(reals, fakes, strict=True)]
    torch.testing.assert_close(hinge.push(real, fake)["loss"], torch.stack(expected).mean())
    squares = Adversary(net, loss="least_squares", reduction="sum", features=0.0)
    expected = [(1 - r).square().mean() + f.square().mean() for r, f in zip(reals, fakes, strict=True)]
    torch.testing.assert_close(squares.push(real, fake)["loss"], torch.stack(expected).sum())
    assert squares.pull(real, fake).keys() == {"adversarial"}


def test_relative_features_ignore_scale() -> None:
    net = MultiPeriodCritic((2,), channels=(4,))
    for parameter in net.discriminators[0].convs[0].parameters():
        if parameter.ndim == 1:
            torch.nn.init.zeros_(parameter)
    adversary = Adversary(net, relative=True, maps="mean")
    x, y = noise(1, 1, 500), noise(1, 1, 500, seed=1)
    quiet = adversary.pull(Waveform(x), Waveform(y))["features"]
    loud = adversary.pull(Waveform(8 * x), Waveform(8 * y))["features"]
    torch.testing.assert_close(quiet, loud)


def test_options_are_checked() -> None:
    net = MultiPeriodCritic((2,), channels=(4,))
    with pytest.raises(ValueError, match="hinge or least_squares"):
        Adversary(net, loss="wasserstein")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction"):
        Adversary(net, reduction="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of 16"):
        MultiScaleCritic(channels=20)
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_published({})


def test_balanced_gradients_have_their_shares() -> None:
    balancer = Balancer({"small": 1.0, "large": 3.0}, total_norm=2.0)
    x = noise(4, 1, 50).requires_grad_()
    losses = {"small": 1e-3 * x.sum(), "large": 1e3 * x[..., :25].square().sum()}
    gradient = balancer(losses, x)
    parts = {name: torch.autograd.grad(loss, x)[0] for name, loss in losses.items()}
    norms = {name: part.flatten(1).norm(dim=1).mean() for name, part in parts.items()}
    expected = 2 * (0.25 * parts["small"] / norms["small"] + 0.75 * parts["large"] / norms["large"])
    torch.testing.assert_close(gradient, expected)
    alone = balancer({"small": 1e-3 * x.sum()}, x)
    torch.testing.assert_close(alone.flatten(1).norm(dim=1).mean(), torch.tensor(2.0))


def test_averages_of_norms_are_corrected_and_kept() -> None:
    x = torch.ones(1, 1, 4, requires_grad=True)
    balancer = Balancer({"a": 1.0}, decay=0.9)
    balancer({"a": x.sum()}, x)  # norm 2
    gradient = balancer({"a": 3 * x.sum()}, x)  # norm 6
    average = (0.9 * 2 + 6) / (0.9 + 1)
    torch.testing.assert_close(gradient, torch.full_like(x, 3 / average))
    again = Balancer({"a": 1.0}, decay=0.9)
    again.load_state_dict(balancer.state_dict())
    assert torch.equal(again({"a": x.sum()}, x), balancer({"a": x.sum()}, x))


def test_losses_without_gradient_or_weight() -> None:
    x = torch.ones(1, 1, 4, requires_grad=True)
    balancer = Balancer({"a": 1.0, "b": 0.0})
    gradient = balancer({"a": 0 * x.sum(), "b": x.sum()}, x)
    assert torch.equal(gradient, torch.zeros_like(x))
    with pytest.raises(KeyError, match="no weight for c"):
        balancer({"c": x.sum()}, x)
    with pytest.raises(ValueError, match="above 0"):
        balancer({"b": x.sum()}, x)
    with pytest.raises(ValueError, match="decay"):
        Balancer({"a": 1.0}, decay=1.0)


WORKER = """
import sys
import torch
from torch import distributed as dist
from zoo.objectives.audio.balancer import Balancer

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
balancer = Balancer({"a": 1.0})
x = torch.ones(1, 1, 4, requires_grad=True)
gradient = balancer({"a": (1 + rank) * x.sum()}, x)
assert torch.allclose(balancer.sums, torch.tensor([3.0])), balancer.sums  # norms 2 and 4
assert torch.allclose(gradient, torch.full_like(x, (1 + rank) / 3))
dist.destroy_process_group()
"""


def test_averages_are_those_of_all_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
