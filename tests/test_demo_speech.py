"""What the demo of speech writes and prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from scripts.demo_speech import CLIP, MODEL, main, speak
from zoo.data.audio import read_audio
from zoo.metrics import STOI
from zoo.store.cards import CARDS


def test_any_model_and_twice_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    clip, output = tmp_path / "voice.flac", tmp_path / "demo"
    shutil.copyfile(CLIP, clip)
    backbone = {"_target_": "decoders.ConvNeXtBackbone", "dim": 6, "width": 32, "depth": 1}
    head = {"_target_": "decoders.ISTFTHead", "width": 32, "hop_length": 256}
    node = zoo.build(MODEL).config | {
        "decoder": {"_target_": "decoders.VocosDecoder", "backbone": backbone, "head": head}
    }
    folder = zoo.build(node).save_pretrained(tmp_path / "small")
    for _ in range(2):
        main(clip=clip, output=output, model=str(folder))
    assert {path.name for path in output.iterdir()} == {"small_voice.wav", "small_voice.png"}
    sound = read_audio(output / "small_voice.wav")
    assert sound.shape == read_audio(clip).shape
    with Image.open(output / "small_voice.png") as picture:
        assert picture.height > 700 and picture.getcolors(1000) is None
    printed = capsys.readouterr().out
    for text in ("voice", "kbit/s", "log-mel distance", "small_voice.png"):
        assert printed.count(text) >= 2


@pytest.mark.skipif(
    not (CARDS / "weights" / f"{MODEL}.safetensors").is_file(), reason="the weights are not in checkpoints/weights"
)
def test_the_embedded_model_is_understood() -> None:
    pytest.importorskip("pystoi")
    spoken = speak(zoo.load(MODEL), CLIP)
    assert spoken.bits / spoken.seconds < 1010
    stoi = STOI(spoken.sample_rate)
    stoi.update(spoken.output[None], spoken.original[None])
    assert stoi.compute() > 0.7
