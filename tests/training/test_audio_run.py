"""Trainings on sound: resumption, what validation measures, what a run leaves to listen to."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("soundfile")

import zoo
from zoo.data.audio import read_audio, write_audio
from zoo.data.shapes_batch import Shapes
from zoo.metrics import LogMelDistance
from zoo.spec import TokenizerSpec
from zoo.store import build, cards
from zoo.training import train
from zoo.training.fidelity import fidelity
from zoo.training.report import Lines
from zoo.training.run import resolve
from zoo.training.samples import Pictures, Recordings, Renders, samples
from zoo.training.snapshots import last_checkpoint

RECIPE = """
defaults: [base/train, {data: speech}, {quantizer: fsq}, _self_]
tokenizer:
  _target_: zoo.families.AudioCodec
  sample_rate: 16000
  encoder: {_target_: encoders.SEANetEncoder, dim: "${encoder_dim}", width: 4, strides: [4, 8], last_kernel: 3}
  decoder: {_target_: decoders.SEANetDecoder, dim: "${dim}", width: 4, strides: [8, 4], last_kernel: 3}
data: {seconds: 0.2, batch_size: 2}
objective: {_target_: zoo.objectives.AudioObjective, losses: {wave: {_target_: zoo.objectives.WaveformLoss}}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small codec as a recipe of its own."""
    folder = tmp_path / "recipes"
    shutil.copytree(build.RECIPES, folder)
    (folder / "small_codec.yaml").write_text(RECIPE)
    monkeypatch.setattr(build, "RECIPES", folder)
    monkeypatch.setattr(cards, "RECIPES", folder)
    return "small_codec"


@pytest.fixture
def options(small: list[str]) -> list[str]:
    """Overrides for a training of seconds on the sample clips."""
    return [option for option in small if not option.startswith("data.root=")]


def state(run: Path) -> dict[str, Any]:
    path = last_checkpoint(run)
    assert path is not None
    return torch.load(path, weights_only=True)


def test_a_run_leaves_sounds_spectrograms_and_numbers(recipe: str, options: list[str], tmp_path: Path) -> None:
    folder = train(recipe, [*options, "data.sample_rate=16000", "logging.images=3"])
    assert zoo.load(folder).spec.modality == "audio"
    run = tmp_path / "run"
    names = {path.name for path in (run / "samples").iterdir()}
    sounds = {f"{name}-{number}.wav" for name in ("original", "step-000000002") for number in range(2)}
    assert names == sounds | {"step-000000002.png"}
    assert read_audio(run / "samples/original-0.wav", channels=1).shape == (1, 3200)
    with Image.open(run / "samples/step-000000002.png") as sheet:
        assert sheet.width > 2 * 480 and sheet.height > 2 * 300
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(run / "logs"), {"audio": 0, "images": 0}).Reload().Tags()
    assert {"val/mel_distance", "val/si_sdr", "val/usage", "val/wave", "train/wave"} <= set(tags["scalars"])
    assert set(tags["audio"]) == {"val/reconstruction-0", "val/reconstruction-1"}
    assert tags["images"] == ["val/reconstruction"]
    assert not (run / "errors.jsonl").exists()


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_resumed_equals_uninterrupted(
    cache: str, recipe: str, options: list[str], tmp_path: Path, same: Any, sounds: Path
) -> None:
    options = [*options, f"data.root={sounds}", f"data.cache={cache}", "trainer.max_steps=5", "data.val_fraction=0"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, [*options, f"run_dir={whole}"])
    workers = 0 if cache == "ram" else 2
    train(recipe, [*options, f"run_dir={parts}", "trainer.max_steps=2"])
    train(recipe, [*options, f"run_dir={parts}", f"data.num_workers={workers}"])
    one, two = state(whole), state(parts)
    assert one["global_step"] == 5
    compared = ("state_dict", "optimizer_states", "global_step")
    assert {key: same(one[key], two[key]) for key in compared} == dict.fromkeys(compared, True)


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six noisy sounds of half a second, and one that is none."""
    folder = tmp_path_factory.mktemp("sounds")
    generator = torch.Generator().manual_seed(0)
    for number in range(6):
        write_audio(folder / f"{number}.flac", torch.rand(1, 8000, generator=generator) - 0.5, 16000)
    (folder / "damaged.wav").write_bytes(b"RIFF")
    return folder


def test_broken_files_are_counted(
    recipe: str, options: list[str], sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe, [*options, f"data.root={sounds}", "data.val_fraction=0.3"])
    assert "1 unreadable files were skipped" in capsys.readouterr().out


def test_fidelity_suits_the_modality() -> None:
    def spec(modality: Any, shape: tuple[int, ...], **extra: Any) -> TokenizerSpec:
        return TokenizerSpec(modality, shape, (2,), 1, 1, "time", **extra)

    sound = torch.rand(3, 1, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    audio = fidelity(spec("audio", (1, 16000), sample_rate=16000))
    for chunk in (sound[:2], sound[2:]):
        found = audio(chunk * 0.5, chunk)
    assert float(found["mel_distance"].compute()) == pytest.approx(0.693, abs=0.02)
    assert float(found["si_sdr"].compute()) > 50
    whole = LogMelDistance(16000)
    whole.update(sound * 0.5, sound)
    torch.testing.assert_close(found["mel_distance"].compute(), whole.compute())
    picture = torch.rand(2, 3, 8, 8) * 2 - 1
    image = fidelity(spec("image", (3, 8, 8)))
    assert float(image(picture, picture)["psnr"]) == pytest.approx(100)
    values = torch.tensor([[1.0, 1, 0, 0, 1]])
    shapes = Shapes(torch.zeros(1, 4, 3), torch.zeros(1, 5, 3), values, torch.tensor([[False] * 4 + [True]]))
    shape = fidelity(spec("shape", (10, 3)))
    assert float(shape(torch.tensor([[1.0, -1, 1, -1, -1, 9]]), shapes)["iou"].compute()) == pytest.approx(1 / 3)
    assert audio.headline in found and image.headline == "psnr" and shape.headline == "iou"
    kinds = [
        type(samples(one, Path(), 1, 1))
        for one in (spec("image", (3, 8, 8)), spec("audio", (1, 8), sample_rate=8), spec("shape", (10, 3)))
    ]
    assert kinds == [Pictures, Recordings, Renders]


def test_stereo_and_wild_outputs_are_shown(tmp_path: Path) -> None:
    shown = Recordings(tmp_path, 2, 1, 8000)
    trainer = SimpleNamespace(global_step=7, is_global_zero=True, loggers=[])
    batch = torch.rand(3, 2, 900) * 2 - 1
    outputs = {"x": batch, "output": torch.full((3, 2, 900), torch.nan)}
    outputs["output"][1] = 9.0
    shown.on_validation_batch_end(trainer, None, outputs, batch, 0)
    shown.on_validation_epoch_end(trainer, SimpleNamespace(usage=lambda part: {}, log_dict=lambda *_, **__: None))
    assert read_audio(tmp_path / "original-1.wav").shape == (2, 900)
    assert float(read_audio(tmp_path / "step-000000007-1.wav").min()) > 0.99
    assert not read_audio(tmp_path / "step-000000007-0.wav").any()
    assert not (tmp_path / "step-000000007-2.wav").exists()


def test_lines_name_the_distance(recipe: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert resolve(recipe)["data"]["root"] == "docs/assets/speech"
    train(recipe, options, callbacks=[Lines(1, 2)])
    assert "mel_distance" in capsys.readouterr().out
