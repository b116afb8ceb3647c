"""Audio losses and critics give the numbers of EnCodec, descript-audio-codec and WavTokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from golden import Case, Manifest, assert_equal, cases, manifests
from torch import Tensor, nn

from zoo.objectives import (
    Adversary,
    Balancer,
    MelLoss,
    MultiBandCritic,
    MultiPeriodCritic,
    MultiResolutionCritic,
    MultiScaleSTFTCritic,
    SISDRLoss,
    STFTLoss,
    WaveformLoss,
)
from zoo.objectives.audio.critic import AudioCritic
from zoo.objectives.audio.spectrum import STFT, MelSpectrogram, Waveform

pytestmark = pytest.mark.golden

RATE = 24000
CHANNELS = (2, 4, 8, 16, 16)
INPUTS = {"real", "fake"}
Found = Iterator[tuple[str, Tensor]]


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    """Of item 0, as the cases hold it."""
    return torch.autograd.grad(loss, x, retain_graph=True)[0][:1]


def published_dac(case: Case, framing: str) -> tuple[AudioCritic, AudioCritic]:
    periods = MultiPeriodCritic(case.config["periods"], channels=CHANNELS, always_pad=True)
    bands = MultiBandCritic(case.config["fft_sizes"], channels=2, framing=framing)  # type: ignore[arg-type]
    periods.load_published(case.state)
    bands.load_published(case.state, first=len(case.config["periods"]))
    return periods, bands


def least_squares(case: Case, framing: str) -> Found:
    fake, real = case.io["fake"][:, None].requires_grad_(), case.io["real"][:, None]
    critics = [
        Adversary(net, loss="least_squares", reduction="sum", normalize=True) for net in published_dac(case, framing)
    ]
    heard = Waveform(real), Waveform(fake)
    for name, wave in zip(("real", "fake"), heard, strict=True):
        verdicts = [verdict for critic in critics for verdict in critic.judge(wave)]
        yield from ((f"logits_{name}.{place}", verdict.logits) for place, verdict in enumerate(verdicts))
    pulls = [critic.pull(*heard) for critic in critics]
    pull, features = (torch.stack([terms[part] for terms in pulls]).sum() for part in ("adversarial", "features"))
    yield "gen_loss", pull
    yield "feature_loss", features
    # with the spectra of the tokenizer's step, as in training
    yield "disc_loss", torch.stack([critic.push(heard[0], heard[1].detach())["loss"] for critic in critics]).sum()
    yield "grad_gen_plus_feature_wrt_fake", gradient(pull + features, fake)[:, 0]


def dac(case: Case) -> Found:
    yield from least_squares(case, "stride")
    fake, real = case.io["fake"][:, None].requires_grad_(), case.io["real"][:, None]
    published = MelLoss(RATE)
    yield "mel_loss_published", published(fake, real)
    yield "grad_mel_loss_wrt_fake", gradient(published(fake, real), fake)[:, 0]
    yield "mel_loss_default", MelLoss(RATE, (2048, 512), (150, 80), power=2, magnitude_l1=1)(fake, real)
    for window, bands in zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True):
        yield f"mel_loss_window{window}", MelLoss(RATE, [window], [bands])(fake, real)
    yield "multiscale_stft_loss_default", STFTLoss()(fake, real)
    yield "waveform_l1", WaveformLoss()(fake, real)
    yield "sisdr_loss", SISDRLoss()(fake, real)
    yield "mel_real_window512", MelSpectrogram(RATE, 512, 80, scale="slaney")(real[:1])
    yield "stft_mag_real_2048", STFT(2048).magnitude(real[:1])[..., :6]
    seen = STFT(512, padding="stride")(real[:1])
    yield "disc_stft512_real_imag_firstframes", torch.view_as_real(seen)[..., :6, :]
    yield "disc_stft512_frames", torch.tensor(seen.shape[-1])


def wavtokenizer_dac_disc(case: Case) -> Found:
    return least_squares(case, "center")


def wavtokenizer_mpd_mrd(case: Case) -> Found:
    fake, real = case.io["fake"][:, None].requires_grad_(), case.io["real"][:, None]
    row, rows = case.config["bandwidth_id"], case.config["num_embeddings"]
    nets: dict[str, AudioCritic] = {
        "mpd": MultiPeriodCritic(case.config["periods"], channels=CHANNELS, conditions=rows, first=1),
        "mrd": MultiResolutionCritic(channels=case.config["mrd_channels"], conditions=rows),
    }
    total = torch.zeros(())
    for name, net in nets.items():
        net.load_published(case.state, f"{name}.")
        for place, (theirs, ours) in enumerate(zip(net(real, row), net(fake, row), strict=True)):
            yield f"{name}.logits_real.{place}", theirs.logits.flatten(1)
            yield f"{name}.logits_fake.{place}", ours.logits.flatten(1)
            maps = [*ours.features, ours.logits]
            yield f"{name}.fmap_fake_mean.{place}", torch.stack([part.mean() for part in maps])
            yield f"{name}.fmap_fake_std.{place}", torch.stack([part.std() for part in maps])
        adversary = Adversary(net, logits=True, condition=row)
        heard = Waveform(real), Waveform(fake)
        pull = adversary.pull(*heard)
        yield f"{name}.gen_loss", pull["adversarial"]
        yield f"{name}.feature_matching_loss", pull["features"]
        yield f"{name}.disc_loss", adversary.push(heard[0], heard[1].detach())["loss"]
        total = total + pull["adversarial"] + pull["features"]
    yield "grad_gan_plus_fm_wrt_fake", gradient(total, fake)[:, 0]
    mel = MelLoss(RATE, [1024], [100], scale="htk", base="e", floor=1e-7)
    yield "mel_loss", mel(fake, real)
    yield "grad_mel_loss_wrt_fake", gradient(mel(fake, real), fake)[:, 0]
    yield "log_mel_real", MelSpectrogram(RATE)(real[:1])[:, 0].clamp_min(1e-7).log()


def encodec_msstft_balancer(case: Case) -> Found:
    fake, real = case.io["fake"].requires_grad_(), case.io["real"]
    net = MultiScaleSTFTCritic(case.config["n_ffts"], channels=case.config["filters"])
    net.load_published(case.state)
    verdicts = net(fake)
    for place, (theirs, ours) in enumerate(zip(net(real), verdicts, strict=True)):
        yield f"logits_real.{place}", theirs.logits
        yield f"logits_fake.{place}", ours.logits
        yield f"fmap_fake_mean.{place}", torch.stack([part.mean() for part in ours.features])
        yield f"fmap_fake_std.{place}", torch.stack([part.std() for part in ours.features])
    yield (
        "grad_logit_mean_wrt_fake",
        gradient(torch.stack([verdict.logits.mean() for verdict in verdicts]).sum(), fake),
    )
    for rescale in (False, True):
        balancer = Balancer({"a": 1.0, "b": 3.0, "c": 0.5}, rescale=rescale)
        for call in range(2):
            x = (case.io["fake"].detach() * (1 + 0.1 * call)).requires_grad_()
            losses = {
                "a": (x - real).abs().mean(),
                "b": 10 * (x - real).square().mean(),
                "c": x.pow(4).mean(),
            }
            yield f"balancer.rescale{int(rescale)}.grad_call{call}", balancer(losses, x)[:1]


CASES: dict[str, Callable[[Case], Found]] = {
    "dac": dac,
    "encodec_msstft_balancer": encodec_msstft_balancer,
    "wavtokenizer_dac_disc": wavtokenizer_dac_disc,
    "wavtokenizer_mpd_mrd": wavtokenizer_mpd_mrd,
}


@pytest.mark.parametrize("case", list(cases("audio_losses")), ids=lambda case: case.id)
def test_every_recorded_number(case: Case) -> None:
    found = dict(CASES[case.folder.name](case))
    assert found.keys() | INPUTS == case.io.keys()
    for name, ours in found.items():
        assert_equal(name, ours.detach(), case.io[name])


def critics(config: dict[str, Any]) -> Iterator[tuple[str, int, AudioCritic]]:
    """Prefix of the published keys, number of the first discriminator, and the critic, of a manifest's config."""

    def both(prefix: str, part: dict[str, Any]) -> Iterator[tuple[str, int, AudioCritic]]:
        yield prefix, 0, MultiPeriodCritic(part["periods"], always_pad=True)
        yield prefix, len(part["periods"]), MultiBandCritic(part["fft_sizes"], channels=part.get("ch", 32))

    if "dac" not in config:
        yield from both("", config)
        return
    # The published file holds two copies: one learnt, the other judged.
    yield from both("dac.", config["dac"])
    yield from both("dacdiscriminator.discriminator.", config["dac"])
    periods, resolutions = config["multiperioddisc"], config["multiresddisc"]
    yield "multiperioddisc.", 0, MultiPeriodCritic(periods["periods"], conditions=periods["num_embeddings"], first=1)
    yield (
        "multiresddisc.",
        0,
        MultiResolutionCritic(
            [shape[:2] for shape in resolutions["resolutions"]],
            channels=resolutions["channels"],
            conditions=resolutions["num_embeddings"],
        ),
    )


@pytest.mark.parametrize("manifest", list(manifests("audio_losses")), ids=lambda manifest: manifest.id)
def test_published_sizes(manifest: Manifest) -> None:
    state, params = manifest.state, 0
    with torch.device("meta"):
        built = list(critics(manifest.config))
    for prefix, first, critic in built:
        before = {name: tensor.shape for name, tensor in critic.state_dict().items()}
        critic.load_published(state, prefix, first=first)
        assert {name: tensor.shape for name, tensor in critic.state_dict().items()} == before
        params += parameters(critic)
    assert params == manifest.content["params"]
    used = sum(len(critic.state_dict()) for _, _, critic in built)
    assert used == sum(not key.startswith("melspec_loss.") for key in state)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())
