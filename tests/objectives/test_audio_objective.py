"""The audio objective, and what a training makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo
from quantizers import Quantized
from zoo.objectives import (
    Adversary,
    AudioObjective,
    MelLoss,
    MultiPeriodCritic,
    MultiScaleSTFTCritic,
    STFTLoss,
    WaveformLoss,
)
from zoo.store.build import RECIPES, instantiate
from zoo.tokenizer import Reconstruction
from zoo.training.adversarial import AdversarialTraining
from zoo.training.module import Settings

GROUPS = ("audio", "audio_gan", "dac_gan", "encodec_gan", "wavtokenizer_gan")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def pair(output: Tensor, loss: float = 0.5) -> Reconstruction:
    empty = torch.zeros(len(output), 1, 1)
    return Reconstruction(output, Quantized(empty, empty.long(), torch.tensor(loss), {}))


def critics() -> dict[str, Adversary]:
    torch.manual_seed(0)
    return {
        "periods": Adversary(MultiPeriodCritic((2, 3), channels=(4, 8)), loss="least_squares", weight=2.0),
        "spectra": Adversary(MultiScaleSTFTCritic((256, 128), channels=4), features=0.5),
    }


def objective(**options: Any) -> AudioObjective:
    losses = {"samples": WaveformLoss(), "stft": STFTLoss((256,))}
    return AudioObjective(losses, weights={"stft": 3.0}, **options)


def test_terms_and_total() -> None:
    x, y = noise(2, 1, 1000), noise(2, 1, 1000, seed=1)
    whole = objective(quantizer=10.0, critic=critics())
    terms = whole(x, pair(y))
    adversarial = {f"{name}_{part}" for name in ("periods", "spectra") for part in ("adversarial", "features")}
    assert terms.keys() == {"samples", "stft", "quantizer", "loss"} | adversarial
    weights = {"samples": 1.0, "stft": 3.0, "quantizer": 10.0, "periods_adversarial": 2.0, "spectra_features": 0.5}
    expected = sum(weights.get(name, 1.0) * value for name, value in terms.items() if name != "loss")
    torch.testing.assert_close(terms["loss"], expected)
    judged = whole.criticise(x, y)
    torch.testing.assert_close(judged["loss"], judged["periods_critic"] + judged["spectra_critic"])
    assert {"periods_real", "periods_fake", "spectra_real", "spectra_fake"} < judged.keys()


def test_critics_wait_for_their_start() -> None:
    x, y = noise(1, 1, 1000), noise(1, 1, 1000, seed=1)
    late = objective(critic=critics(), adversarial_start=5)
    assert late(x, pair(y), 4).keys() == {"samples", "stft", "quantizer", "loss"}
    assert "periods_adversarial" in late(x, pair(y), 5)


def test_the_critic_hears_what_the_tokenizer_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spectra of the tokenizer's step serve the critic's; no gradient passes; another output is heard anew."""
    x, y = noise(1, 1, 1000), noise(1, 1, 1000, seed=1).requires_grad_()
    whole = objective(critic=critics())
    terms = whole(x, pair(y))
    calls, real = [], torch.stft
    monkeypatch.setattr(torch, "stft", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    shared = whole.criticise(x, y)
    assert not calls
    shared["loss"].backward()
    assert y.grad is None
    terms["loss"].backward()
    assert y.grad is not None
    torch.testing.assert_close(whole.criticise(x, y)["loss"], shared["loss"])
    assert len(calls) == 4


def test_balance_shares_the_gradient_and_reports_the_sum() -> None:
    x, y = noise(2, 1, 1000), noise(2, 1, 1000, seed=1).requires_grad_()
    plain, balanced = (
        objective(quantizer=0.0, critic=critics()),
        objective(quantizer=0.0, critic=critics(), balance={"total_norm": 1.0}),
    )
    terms = balanced(x, pair(y))
    torch.testing.assert_close(terms["loss"], plain(x, pair(y))["loss"])
    terms["loss"].backward()
    assert y.grad is not None
    assert 0 < y.grad.flatten(1).norm(dim=1).mean() <= 1 + 1e-5
    with torch.no_grad():
        counts = balanced.balancer.counts.clone()  # type: ignore[union-attr]
        torch.testing.assert_close(balanced(x, pair(y))["loss"], terms["loss"])
        assert torch.equal(balanced.balancer.counts, counts)  # type: ignore[union-attr]


def test_balanced_quantizer_loss_keeps_its_gradient() -> None:
    x, y = noise(1, 1, 1000), noise(1, 1, 1000, seed=1).requires_grad_()
    commitment = torch.tensor(0.5, requires_grad=True)
    shown = pair(y)
    shown = Reconstruction(y, Quantized(shown.quantized.latents, shown.quantized.indices, commitment, {}))
    objective(quantizer=4.0, balance={})(x, shown)["loss"].backward()
    assert commitment.grad == 4


def test_errors() -> None:
    mel = {"mel": MelLoss(16000)}
    with pytest.raises(ValueError, match="weights of l1 without a loss"):
        AudioObjective(mel, weights={"l1": 1.0})
    with pytest.raises(ValueError, match="critic_optimizer has no rate"):
        AudioObjective(mel, critic_optimizer={"rate": 1.0})
    with pytest.raises(ValueError, match="critic_rate"):
        AudioObjective(mel, critic_rate=0.0)
    with pytest.raises(ValueError, match="differ in name"):
        AudioObjective({"quantizer": MelLoss(16000)})
    with pytest.raises(ValueError, match="like the input"):
        AudioObjective(mel)(noise(1, 1, 1000), pair(noise(1, 1, 999)))
    with pytest.raises(ValueError, match="no critic"):
        AudioObjective(mel).criticise(noise(1, 1, 9), noise(1, 1, 9))


def group(name: str) -> AudioObjective:
    text = (RECIPES / "objective" / f"{name}.yaml").read_text().replace("${tokenizer.sample_rate}", "24000")
    node = yaml.safe_load(text)
    for loss in node["losses"].values():
        if "sample_rate" in loss:
            loss["sample_rate"] = int(loss["sample_rate"])
    return instantiate(node)


@pytest.mark.parametrize("name", GROUPS)
def test_recipe_groups_build(name: str) -> None:
    with torch.device("meta"):
        built = group(name)
    assert built.losses.keys() <= built.weights.keys()
    assert (built.critic is None) == (name == "audio")


def narrow(built: AudioObjective) -> None:
    """Give the critics of a group few channels."""
    for adversary in built.critic.values():  # type: ignore[union-attr]
        kind = type(adversary.net)
        channels: Any = (4, 8) if kind is MultiPeriodCritic else 4
        adversary.net = kind(channels=channels)  # type: ignore[operator, assignment]


def codec() -> zoo.Tokenizer:
    torch.manual_seed(0)
    return zoo.build(
        {
            "_target_": "zoo.families.AudioCodec",
            "sample_rate": 16000,
            "encoder": {"_target_": "encoders.SEANetEncoder", "dim": 4, "width": 2, "strides": [4, 4], "lstm": 0},
            "quantizer": {"_target_": "quantizers.VQ", "dim": 4, "codebook_size": 16},
            "decoder": {"_target_": "decoders.SEANetDecoder", "dim": 4, "width": 2, "strides": [4, 4], "lstm": 0},
        }
    )


def trained(objective: nn.Module, steps: int = 3, precision: str = "32-true") -> AdversarialTraining:
    seed_everything(0, verbose=False)
    settings = Settings(
        optimizer={"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0},
        schedule={"kind": "constant", "warmup_steps": 0, "final": 1.0},
        max_steps=steps,
        gradient_clip=5.0,
    )
    module = AdversarialTraining(codec(), objective, settings)
    batches = DataLoader([noise(1, 2048, seed=number) for number in range(2 * steps)], batch_size=2)  # type: ignore[arg-type]
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches)
    return module


@pytest.mark.parametrize("name", GROUPS[1:])
def test_every_critic_of_a_group_learns(name: str) -> None:
    """In WavTokenizer's published training one critic is judged and another, unused, is optimised."""
    built = group(name)
    narrow(built)
    built.adversarial_start, built.critic_rate = 0, 1.0
    before = {key: value.clone() for key, value in built.critic.named_parameters()}  # type: ignore[union-attr]
    module = trained(built)
    after = dict(module.critic.named_parameters())
    still = [key for key in before if torch.equal(after[key], before[key])]
    # The sides of a hinge, real and fake, can cancel exactly in a bias.
    assert [key for key in still if not key.endswith("bias") or not built.critic[key.split(".")[0]].hinge] == []  # type: ignore


def test_training_with_a_balance_in_bf16() -> None:
    module = trained(objective(critic=critics(), balance={}), precision="bf16-mixed")
    assert module.global_step == 3
    assert all(value.isfinite().all() for value in module.parameters())
    assert module.objective.balancer.counts.all()  # type: ignore[union-attr, operator]


def test_the_critics_optimizer_has_settings_of_its_own() -> None:
    own = {"lr": 7e-4, "betas": [0.5, 0.9], "weight_decay": 0.1, "gradient_clip": 0.25}
    module = trained(objective(critic=critics(), critic_optimizer=own), steps=1)
    ours, theirs = module.trainer.optimizers
    assert ours.param_groups[0]["betas"] == (0.9, 0.99) and ours.param_groups[0]["weight_decay"] == 0.0
    assert theirs.param_groups[0]["lr"] == 7e-4 and theirs.param_groups[0]["betas"] == (0.5, 0.9)
    assert theirs.param_groups[0]["weight_decay"] == 0.1
    assert module.critic_clip == 0.25 and module.settings.gradient_clip == 5.0


def test_the_critic_learns_in_its_share_of_steps() -> None:
    module = trained(objective(critic=critics(), adversarial_start=10, critic_rate=0.5), steps=1)
    turns = [module.critic_learns(step) for step in range(1010)]
    assert not any(turns[:10]) and 430 < sum(turns) < 570
    assert turns == [module.critic_learns(step) for step in range(1010)]
