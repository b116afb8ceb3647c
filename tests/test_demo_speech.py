"""What the demo of speech writes and prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from scripts.demo_speech import CLIP, MODELS, depths, main, speak
from zoo.data.audio import read_audio
from zoo.metrics import STOI
from zoo.store.cards import CARDS


def test_any_model_and_twice_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    clip, output = tmp_path / "voice.flac", tmp_path / "demo"
    shutil.copyfile(CLIP, clip)
    backbone = {"_target_": "decoders.ConvNeXtBackbone", "dim": 6, "width": 32, "depth": 1}
    head = {"_target_": "decoders.ISTFTHead", "width": 32, "hop_length": 256}
    node = zoo.build(MODELS[0]).config | {
        "decoder": {"_target_": "decoders.VocosDecoder", "backbone": backbone, "head": head}
    }
    folder = zoo.build(node).save_pretrained(tmp_path / "small")
    for _ in range(2):
        main(clip=clip, output=output, model=[str(folder)])
    assert {path.name for path in output.iterdir()} == {"small_voice.wav", "small_voice.png"}
    sound = read_audio(output / "small_voice.wav")
    assert sound.shape == read_audio(clip).shape
    with Image.open(output / "small_voice.png") as picture:
        assert picture.height > 700 and picture.getcolors(1000) is None
    printed = capsys.readouterr().out
    for text in ("voice", "kbit/s", "log-mel distance", "small_voice.png"):
        assert printed.count(text) >= 2


def test_a_residual_code_is_shown_at_several_depths(tmp_path: Path) -> None:
    folder = zoo.build("encodec_tiny").save_pretrained(tmp_path / "residual")
    main(clip=CLIP, output=tmp_path, model=[str(folder)])
    names = {f"residual_{CLIP.stem}{end}" for end in ("_4.wav", "_2.wav", "_1.wav", ".png")}
    assert names <= {path.name for path in tmp_path.iterdir()}
    with Image.open(tmp_path / f"residual_{CLIP.stem}.png") as picture:
        assert picture.height > 1400


@pytest.mark.parametrize("name", MODELS)
def test_the_embedded_models_are_understood(name: str) -> None:
    pytest.importorskip("pystoi")
    if not (CARDS / "weights" / f"{name}.safetensors").is_file():
        pytest.skip("the weights are not in checkpoints/weights")
    model = zoo.load(name)
    found = []
    for count in depths(model):
        spoken = speak(model, CLIP, count)
        stoi = STOI(spoken.sample_rate)
        stoi.update(spoken.output[None], spoken.original[None])
        found.append((spoken.bits / spoken.seconds / 1000, float(stoi.compute())))
    assert found[0][1] > 0.7
    assert found == sorted(found, reverse=True), "more bits are not better"
