"""The benchmark of embedded speech models, on sample clips and an untrained model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import zoo
from benchmarks.embedded_speech import NUMBERS, SETS, clips, first, main, opus, prefixes
from zoo.data.audio import read_audio
from zoo.metrics import STOI

for package in ("pystoi", "pesq", "speechmos", "onnxruntime"):
    pytest.importorskip(package)

SPEECH = Path(__file__).parents[2] / "docs/assets/speech"
CLIP = SPEECH / "young_man.flac"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("open_speech")
    for item in SETS:
        (root / "test" / item.name).mkdir(parents=True)
        shutil.copyfile(CLIP, root / "test" / item.name / "clip.flac")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = {"_target_": "decoders.ConvNeXtBackbone", "dim": 3, "width": 32, "depth": 1}
    head = {"_target_": "decoders.ISTFTHead", "width": 32, "hop_length": 320}
    tokenizer = zoo.build(
        {
            "_target_": "zoo.families.WavTokenizer",
            "sample_rate": 16000,
            "encoder": {"_target_": "encoders.SpectralEncoder", "dim": 3, "sample_rate": 16000, "hop_length": 320}
            | {"width": 16, "depth": 1},
            "quantizer": {"_target_": "quantizers.FSQ", "levels": [4, 4, 4]},
            "decoder": {"_target_": "decoders.VocosDecoder", "backbone": backbone, "head": head},
        }
    )
    return tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "speech")


def test_every_so_many_clips(tmp_path: Path) -> None:
    for number in range(5):
        shutil.copyfile(CLIP, tmp_path / f"{number}.flac")
    found = clips(tmp_path, 2, 8000)
    assert len(found) == 3 and found[0].shape[0] == 1
    assert abs(found[0].shape[1] - read_audio(CLIP).shape[1] / 2) <= 1
    with pytest.raises(FileNotFoundError, match=r"scripts/open_speech\.py"):
        clips(tmp_path / "test/pocketsphinx", 1, 16000)


def test_opus_comes_back_in_time_and_costs_more_at_a_higher_rate() -> None:
    pytest.importorskip("av")
    sound, sizes = read_audio(CLIP), []
    for asked in (6.0, 16.0):
        output, bits = opus(sound, 16000, asked)
        assert output.shape == sound.shape
        stoi = STOI(16000)
        stoi.update(output[None], sound[None])
        assert stoi.compute() > 0.75  # a shift of a few ms would take it to a half
        sizes.append(bits / sound.shape[1] * 16)
    assert 3 < sizes[0] < 8 < sizes[1] < 20


def test_numbers_with_their_protocol(
    speech: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    path = tmp_path / "numbers.json"
    main(["--speech", str(speech), "--model", str(model), "--json", str(path), "--opus", "6", "--every", "1"])
    document = json.loads(path.read_text())
    assert len(document["sha256"]) == 64
    rows = {(row["set"], row["codec"], row["name"]): row for row in document["numbers"]}
    for item in SETS:
        ours = {name: rows[item.name, "tokens", name]["value"] for name in NUMBERS}
        assert ours["kbit/s"] == pytest.approx(0.3, abs=0.01)  # 50 tokens of 6 bits a second
        assert 0 < ours["codebook usage"] <= 1 and 1 <= ours["codebook perplexity"] <= 64
        assert rows[item.name, "Opus 6 kbit/s", "PESQ"]["value"] > ours["PESQ"] >= 1
        assert [name for where, codec, name in rows if (where, codec) == (item.name, "original")] == ["DNSMOS"]
    assert rows["asterisk-fr", "tokens", "STOI"]["crop"] == "all, 1 clips, 3 s at 16 kHz"
    assert "perplexity" in capsys.readouterr().out


def test_a_residual_code_is_measured_at_its_first_codebooks_too() -> None:
    tokenizer = zoo.build("encodec_tiny").eval()
    assert prefixes(tokenizer) == {"tokens": 4, "2 codebooks": 2, "1 codebook": 1}
    x = torch.rand(1, 1, 4000, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.inference_mode():
        assert first(tokenizer.encode(x), 2).equal(tokenizer.encode(x, codebooks=2))
    assert prefixes(zoo.build("wavtokenizer_tiny")) == {"tokens": 1}
