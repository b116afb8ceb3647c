"""`zoo tokenize`, `zoo detokenize` and `zoo reconstruct` on sound files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import Result

import zoo
from zoo.data.signals import resample
from zoo.families import AudioTokenizer

soundfile = pytest.importorskip("soundfile")

from zoo.data.audio import read_audio, write_audio  # noqa: E402

Cli = Callable[..., Result]
SEANET = {"dim": 4, "width": 4, "lstm": 0}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A mono codec with two codebooks that any file length suits, the same in stereo, and one that only encodes."""
    folder, names = tmp_path_factory.mktemp("models"), {}
    levels = [{"_target_": "quantizers.VQ", "dim": 4, "codebook_size": size} for size in (16, 8)]
    for name, channels in (("mono", 1), ("stereo", 2)):
        torch.manual_seed(0)
        node = {
            "_target_": "zoo.families.AudioCodec",
            "sample_rate": 8000,
            "encoder": {"_target_": "encoders.SEANetEncoder", "channels": channels, "strides": [4, 5], **SEANET},
            "quantizer": {"_target_": "quantizers.Residual", "quantizer": levels},
            "decoder": {"_target_": "decoders.SEANetDecoder", "channels": channels, "strides": [5, 4], **SEANET},
        }
        names[name] = str(zoo.build(node).save_pretrained(folder / name))
    names["encodes"] = str(zoo.build("s3tokenizer_tiny").save_pretrained(folder / "encodes"))
    return names


def wave(seconds: float, rate: int, channels: int = 1) -> torch.Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    tones = [0.3 * torch.sin(2 * torch.pi * (200 + 300 * number) * time) for number in range(channels)]
    return torch.stack(tones)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Clips of several rates, channels and formats, one in a subfolder; silence, and one shorter than a token."""
    root = tmp_path / "sounds"
    write_audio(root / "mono.wav", wave(0.7, 16_000), 16_000)
    write_audio(root / "sub" / "stereo.flac", wave(0.5, 44_100, 2), 44_100, bits=24)
    write_audio(root / "silence.wav", torch.zeros(1, 4000), 8000)
    write_audio(root / "short.wav", torch.full((1, 3), 0.1), 8000)
    soundfile.write(root / "a.ogg", wave(0.4, 22_050)[0].numpy(), 22_050)
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def opened(folder: str) -> AudioTokenizer:
    tokenizer = zoo.load(folder)
    assert isinstance(tokenizer, AudioTokenizer)
    return tokenizer


def errors(folder: Path) -> dict[str, str]:
    records = [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]
    return {Path(record["input"]).name: record["message"] for record in records}


@pytest.mark.parametrize("batch", [1, 8])
def test_there_and_back(cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path, batch: int) -> None:
    made = cli("tokenize", sounds, "-m", models["mono"], "-o", tmp_path / "t", "-b", batch)
    assert made.exit_code == 0, made.output
    places = ["a", "mono", "short", "silence", "sub/stereo"]
    assert names(tmp_path / "t") == [f"{place}.safetensors" for place in places]
    assert "400.4 tokens/s" in made.stderr and "2.8 kbit/s" in made.stderr
    assert "the tokenizer is mono: 1 file with more channels mixed down" in made.stderr

    tokenizer = opened(models["mono"])
    with torch.no_grad():
        mono = tokenizer.encode(resample(read_audio(sounds / "mono.wav"), 16_000, 8000)[None])
        mixed = read_audio(sounds / "sub" / "stereo.flac").mean(0, keepdim=True)
        stereo = tokenizer.encode(resample(mixed, 44_100, 8000)[None])
    for name, expected in (("mono", mono), ("sub/stereo", stereo)):
        assert zoo.Tokens.load(tmp_path / "t" / f"{name}.safetensors").equal(expected)
    facts = json.loads(zoo.Tokens.read_metadata(tmp_path / "t" / "sub/stereo.safetensors")["audio"])
    assert facts == {"sample_rate": 44_100, "channels": 2, "length": 22_050, "each": False}

    back = cli("detokenize", tmp_path / "t", "-o", tmp_path / "b", "--bits", 24)
    assert back.exit_code == 0, back.output
    assert names(tmp_path / "b") == [f"{place}.wav" for place in places]
    for place, source in zip(places, ("a.ogg", "mono.wav", "short.wav", "silence.wav", "sub/stereo.flac"), strict=True):
        before, after = soundfile.info(sounds / source), soundfile.info(tmp_path / "b" / f"{place}.wav")
        assert (after.samplerate, after.channels, after.frames) == (before.samplerate, before.channels, before.frames)
    with torch.no_grad():
        expected_sound = resample(tokenizer.decode(stereo)[0], 8000, 44_100)[:, :22_050]
    restored = read_audio(tmp_path / "b" / "sub" / "stereo.wav")
    assert torch.equal(restored[0], restored[1])
    assert (restored[:1] - expected_sound.clamp(-1, 1)).abs().max() < 1e-5


def test_each_channel_alone(cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path) -> None:
    file = sounds / "sub" / "stereo.flac"
    assert (
        cli("tokenize", file, "-m", models["mono"], "-o", tmp_path / "t.safetensors", "--channels", "each").exit_code
        == 0
    )
    tokens, tokenizer = zoo.Tokens.load(tmp_path / "t.safetensors"), opened(models["mono"])
    with torch.no_grad():
        expected = tokenizer.encode(resample(read_audio(file), 44_100, 8000)[:, None])
        output = resample(tokenizer.decode(expected)[:, 0], 8000, 44_100)[:, :22_050]
    assert len(tokens) == 2 and tokens.equal(expected)
    assert cli("detokenize", tmp_path / "t.safetensors", "-o", tmp_path / "t.flac").exit_code == 0
    assert (read_audio(tmp_path / "t.flac") - output.clamp(-1, 1)).abs().max() < 1e-4


def test_mono_through_a_stereo_model(cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path) -> None:
    made = cli("reconstruct", sounds / "mono.wav", "-m", models["stereo"], "-o", tmp_path / "o")
    assert made.exit_code == 0, made.output
    assert soundfile.info(tmp_path / "o" / "mono.wav").channels == 1


def test_long_files_are_those_of_the_whole(cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path) -> None:
    write_audio(sounds / "long.wav", wave(4.3, 11_025), 11_025)
    for chunk in ("1", "60"):
        made = cli(
            "tokenize",
            sounds / "long.wav",
            "-m",
            models["mono"],
            "-o",
            tmp_path / f"{chunk}.safetensors",
            "--chunk",
            chunk,
        )
        assert made.exit_code == 0
        back = cli("detokenize", tmp_path / f"{chunk}.safetensors", "-o", tmp_path / f"{chunk}.wav", "--chunk", chunk)
        assert back.exit_code == 0
    one, whole = (zoo.Tokens.load(tmp_path / f"{chunk}.safetensors") for chunk in ("1", "60"))
    assert one.equal(whole) and one.num_tokens == 1721
    assert (read_audio(tmp_path / "1.wav") - read_audio(tmp_path / "60.wav")).abs().max() <= 2**-14


def test_codebooks(cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path) -> None:
    for option in (("--codebooks", 1), ("--bandwidth", 1.6)):
        made = cli("tokenize", sounds / "mono.wav", "-m", models["mono"], "-o", tmp_path / "t", "--overwrite", *option)
        assert made.exit_code == 0 and "1.6 kbit/s" in made.stderr
        assert zoo.Tokens.load(tmp_path / "t" / "mono.safetensors").codebook_sizes == (16,)
    assert cli("detokenize", tmp_path / "t", "-o", tmp_path / "b").exit_code == 0
    assert soundfile.info(tmp_path / "b" / "mono.wav").frames == 11_200


def test_bad_files_are_recorded_and_the_job_goes_on(
    cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path
) -> None:
    (sounds / "empty.wav").touch()
    (sounds / "text.mp3").write_text("words " * 300)
    packed = (sounds / "sub" / "stereo.flac").read_bytes()
    (sounds / "cut.flac").write_bytes(packed[: len(packed) // 2])
    sick = wave(0.2, 8000)
    sick[0, 9] = float("inf")
    soundfile.write(sounds / "inf.wav", sick[0].numpy(), 8000, subtype="FLOAT")
    made = cli("tokenize", sounds, tmp_path / "absent.wav", "-m", models["mono"], "-o", tmp_path / "t")
    assert made.exit_code == 1 and "5 done" in made.stderr and "5 failed" in made.stderr
    told = errors(tmp_path / "t")
    assert set(told) == {"empty.wav", "text.mp3", "cut.flac", "inf.wav", "absent.wav"}
    assert "0 bytes" in told["empty.wav"] and "not a sound file" in told["text.mp3"]
    assert "sample 9" in told["inf.wav"] and "no sound file" in told["absent.wav"]
    again = cli("tokenize", sounds, "-m", models["mono"], "-o", tmp_path / "t")
    assert "0 done, 5 skipped" in again.stderr


def test_clips_that_fail_together_are_tried_alone(
    cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = AudioTokenizer.encode

    def limited(self: AudioTokenizer, x: torch.Tensor, *args: Any, **options: Any) -> zoo.Tokens:
        if len(x) > 1 or x.shape[-1] == 3:
            raise RuntimeError("out of memory")
        return encode(self, x, *args, **options)

    monkeypatch.setattr(AudioTokenizer, "encode", limited)
    made = cli("tokenize", sounds, "-m", models["mono"], "-o", tmp_path / "t")
    assert made.exit_code == 1 and "4 done" in made.stderr and errors(tmp_path / "t") == {"short.wav": "out of memory"}


def test_reconstruct(cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path) -> None:
    made = cli("reconstruct", sounds, "-m", models["mono"], "-o", tmp_path / "o", "--json")
    assert made.exit_code == 0, made.output
    rows = {Path(row["input"]).name: row for row in map(json.loads, made.stdout.splitlines())}
    assert names(tmp_path / "o") == sorted(
        f"{place}{end}" for place in ("a", "mono", "short", "silence", "sub/stereo") for end in (".wav", ".png")
    )
    row = rows["mono.wav"]
    assert (row["seconds"], row["tokens"], row["tokens_per_second"]) == (0.7, 280, 400.0)
    assert row["bits"] == 1960.0 and row["kbit_per_second"] == 2.8
    before, after = read_audio(sounds / "mono.wav").double(), read_audio(tmp_path / "o" / "mono.wav").double()
    scaled = (before * after).sum() / before.square().sum() * before
    assert row["si_sdr"] == pytest.approx(
        float(10 * torch.log10(scaled.square().sum() / (after - scaled).square().sum())), abs=1e-3
    )
    assert rows["silence.wav"]["si_sdr"] is None
    with Image.open(row["spectrograms"]) as picture:
        assert picture.width > 1000 and picture.height > 320


def test_reconstruct_names_one_file_and_prints_a_table(
    cli: Cli, models: dict[str, str], sounds: Path, tmp_path: Path
) -> None:
    made = cli(
        "reconstruct", sounds / "mono.wav", "-m", models["mono"], "-o", tmp_path / "x.flac", "--dtype", "bfloat16"
    )
    assert made.exit_code == 0 and "SI-SDR" in made.stdout and "280" in made.stdout
    assert (tmp_path / "x.flac").is_file() and (tmp_path / "x.png").is_file()


def test_token_files_without_a_record(cli: Cli, models: dict[str, str], tmp_path: Path) -> None:
    """From Python: a batch of different lengths gives a file for each, at the tokenizer's rate."""
    tokenizer = opened(models["mono"])
    with torch.no_grad():
        tokens = tokenizer.encode(torch.randn(2, 1, 4000) / 9, torch.tensor([4000, 1234]))
    tokens.save(tmp_path / "two.safetensors")
    made = cli("detokenize", tmp_path / "two.safetensors", "-m", models["mono"], "-o", tmp_path / "b")
    assert made.exit_code == 0, made.output
    lengths = [soundfile.info(tmp_path / "b" / f"two-000{number}.wav").frames for number in (0, 1)]
    assert lengths == [4000, 1234]


def test_a_folder_of_pictures_and_sounds(
    cli: Cli, models: dict[str, str], flexible: str, photos: Path, sounds: Path, tmp_path: Path
) -> None:
    assert cli("tokenize", photos / "chelsea.jpg", "-m", flexible, "-o", tmp_path / "t").exit_code == 0
    assert cli("tokenize", sounds / "mono.wav", "-m", models["mono"], "-o", tmp_path / "t").exit_code == 0
    assert cli("detokenize", tmp_path / "t", "-o", tmp_path / "b").exit_code == 0
    assert names(tmp_path / "b") == ["chelsea.png", "mono.wav"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reconstruct", "SOUNDS", "-m", "ENCODES", "-o", "OUT"], "only encodes, it gives nothing back"),
        (
            ["reconstruct", "SOUNDS", "-m", "MONO", "-o", "OUT", "--format", "png"],
            "--format is one of wav, flac for sounds",
        ),
        (["reconstruct", "SOUNDS", "-m", "MONO", "-o", "OUT", "--tokens", "4"], "needs a model whose prefixes decode"),
        (["reconstruct", "SOUNDS", "-m", "MONO", "-o", "OUT", "--bits", "12"], "--bits is 16, 24 or 32"),
        (["tokenize", "SOUNDS", "-m", "MONO", "-o", "OUT", "--codebooks", "3"], "codebooks lie in 1 to 2, got 3"),
        (["tokenize", "SOUNDS", "-m", "MONO", "-o", "OUT", "--bandwidth", "2"], "bandwidths of 1.6, 2.8 kbit/s, got 2"),
        (["reconstruct", "SOUNDS", "-m", "MONO", "-o", "OUT", "--bandwidth", "2.8", "--codebooks", "2"], "give one of"),
        (["tokenize", "SOUNDS", "-m", "ENCODES", "-o", "OUT", "--bandwidth", "1"], "at one bandwidth"),
        (["tokenize", "PHOTOS", "-m", "FLEX", "-o", "OUT", "--bandwidth", "1"], "--bandwidth is for sounds"),
        (["tokenize", "SOUNDS", "-m", "FLEX", "-o", "OUT"], "folders are searched for .png"),
        (["tokenize", "SOUNDS", "-m", "MONO", "-o", "OUT", "--text", "a cat"], "reads none"),
        (["tokenize", "PHOTOS", "-m", "FLEX", "-o", "OUT", "--codebooks", "1"], "--codebooks is for sounds"),
        (["reconstruct", "SOUNDS/sub", "-m", "MONO", "-o", "SOUNDS/sub", "--format", "flac"], "is an input as well"),
    ],
)
def test_usage_errors(
    cli: Cli,
    models: dict[str, str],
    flexible: str,
    sounds: Path,
    photos: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    table = {"SOUNDS": str(sounds), "PHOTOS": str(photos), "FLEX": flexible, "OUT": str(tmp_path / "out")}
    for key, value in {**table, "MONO": models["mono"], "ENCODES": models["encodes"]}.items():
        arguments = [argument.replace(key, value) for argument in arguments]
    made = cli(*arguments)
    assert made.exit_code == 2 and message in made.stderr.replace("\n", " "), made.output


def test_info(cli: Cli, models: dict[str, str]) -> None:
    shown = cli("info", models["mono"])
    for part in ("8,000 Hz, mono, any length", "400 per second, 20 samples each", "16 + 8 codes", "2.8 kbit/s"):
        assert part in shown.stdout, shown.stdout
    assert "encodes only" in cli("info", models["encodes"]).stdout
    facts = json.loads(cli("info", models["stereo"], "--json").stdout)
    assert (facts["tokens_per_second"], facts["kbit_per_second"]) == (400, 2.8)
