"""Sound files of every kind in and out, and sounds read piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

soundfile = pytest.importorskip("soundfile")

from zoo.data.audio import AudioFile, read_audio, write_audio  # noqa: E402
from zoo.data.images import to_pil  # noqa: E402
from zoo.data.signals import Array, Mixed, Resampled, blocks, mix, resample  # noqa: E402
from zoo.data.spectrogram import draw_spectrogram, spectrogram  # noqa: E402

RATE = 8000


def noise(channels: int = 2, samples: int = 20_003) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(channels, samples, generator=generator).cumsum(1)
    return 0.3 * walk / walk.abs().max()


def in_pieces(signal: object, size: int) -> torch.Tensor:
    return torch.cat([signal.read(*place) for place in blocks(signal.length, size)], 1)  # type: ignore[attr-defined]


KINDS = {
    "u8.wav": ({"subtype": "PCM_U8"}, 1 / 127),
    "16.wav": ({"subtype": "PCM_16"}, 1 / 32_000),
    "24.wav": ({"subtype": "PCM_24"}, 1e-6),
    "32.wav": ({"subtype": "PCM_32"}, 1e-7),
    "float.wav": ({"subtype": "FLOAT"}, 0),
    "double.wav": ({"subtype": "DOUBLE"}, 1e-7),
    "8.flac": ({"subtype": "PCM_S8"}, 1 / 127),
    "24.flac": ({"subtype": "PCM_24"}, 1e-6),
    "a.ogg": ({"subtype": "VORBIS"}, 0.02),
    "a.mp3": ({}, 0.1),
    "a.opus": ({"format": "OGG", "subtype": "OPUS"}, 1),
    "a.aiff": ({"subtype": "PCM_16"}, 1 / 32_000),
    "mp3_inside.wav": ({"format": "MP3"}, 0.1),  # the content decides
}


@pytest.mark.parametrize("name", KINDS)
def test_formats_and_pieces(tmp_path: Path, name: str) -> None:
    options, error = KINDS[name]
    rounding = 1e-6 if "mp3" in name else 0  # the decoder's sums depend on where it is asked to stop
    sound = noise()
    soundfile.write(tmp_path / name, sound.T.numpy(), RATE, **options)
    whole = read_audio(tmp_path / name)
    assert whole.dtype == torch.float32 and whole.shape == sound.shape
    assert (whole - sound).abs().max() <= error
    with AudioFile(tmp_path / name) as file:
        assert (file.channels, file.sample_rate, file.length) == (2, RATE, 20_003)
        parts = []
        for start, stop in blocks(file.length, 777):  # with overlaps, as a chunk and what is around it
            first, last = max(0, start - 100), min(file.length, stop + 100)
            parts.append(file.read(first, last)[:, start - first : stop - first])
        assert (torch.cat(parts, 1) - whole).abs().max() <= rounding
        for start in (15_000, 3, 9000, 16_000):
            assert (file.read(start, start + 900) - whole[:, start : start + 900]).abs().max() <= rounding


def test_going_forward_decodes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "a.flac", noise(1), RATE)
    decoded: list[int] = []
    decode = AudioFile._decode
    monkeypatch.setattr(AudioFile, "_decode", lambda self, a, b: decoded.append(b - a) or decode(self, a, b))
    with AudioFile(tmp_path / "a.flac") as file:
        for start, stop in blocks(file.length, 1000):
            file.read(max(0, start - 300), stop)
    assert sum(decoded) == 20_003 and max(decoded) <= 1000


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.flac", noise(1)[0].numpy(), RATE)
    packed = (tmp_path / "good.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("not a sound " * 100)
    soundfile.write(tmp_path / "none.wav", noise(1)[0, :0].numpy(), RATE)
    sick = noise(1)
    sick[0, 800] = float("nan")
    soundfile.write(tmp_path / "nan.wav", sick[0].numpy(), RATE, subtype="FLOAT")
    for name, message in {
        "cut.flac": "breaks off at sample|damaged at about sample",
        "empty.wav": r"empty \(0 bytes\)",
        "text.mp3": "not a sound file of a known format",
        "none.wav": "no samples",
        "nan.wav": r"sample 800 \(0.100 s\) is NaN or infinite",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_audio(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no sound file"):
        read_audio(tmp_path / "absent.wav")
    with AudioFile(tmp_path / "good.flac") as file, pytest.raises(ValueError, match="has 20003 samples"):
        file.read(0, 20_004)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize(("bits", "error"), [(16, 2**-15), (24, 2**-23)])
def test_written_files(tmp_path: Path, suffix: str, bits: int, error: float) -> None:
    sound = noise() * 3
    path = write_audio(tmp_path / f"a{suffix}", sound, RATE, bits=bits)
    assert soundfile.info(path).subtype == f"PCM_{bits}"
    assert (read_audio(path) - sound.clamp(-1, 1)).abs().max() <= error
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_float_files_keep_what_is_too_loud(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise() * 9, RATE, bits=32)
    assert torch.equal(read_audio(path), noise() * 9)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.mp3", {}, "cannot write .mp3; use .wav, .flac"),
        ("a.flac", {"bits": 32}, "16 or 24 bits"),
        ("a.wav", {"bits": 12}, "got 12"),
        ("a.flac", {"channels": 9}, "FLAC cannot hold 9 channels"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, options: dict[str, int], message: str) -> None:
    channels = options.pop("channels", 1)
    with pytest.raises(ValueError, match=message):
        write_audio(tmp_path / name, noise(channels), RATE, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("old", "new"), [(44_100, 24_000), (24_000, 44_100), (8000, 24_000), (11_025, 16_000)])
def test_resampling_in_pieces_is_that_of_the_whole(old: int, new: int) -> None:
    sound = noise()
    signal = Resampled(Array(sound, old), new)
    whole = resample(sound, old, new)
    assert signal.length == whole.shape[1] == -(-20_003 * new // old)
    assert (in_pieces(signal, 999) - whole).abs().max() < 1e-6
    back = Resampled(Array(whole, new), old, 20_003)
    middle = slice(200, -200)
    low = resample(resample(sound, old, new), new, old)[:, :20_003]
    assert back.length == 20_003 and (in_pieces(back, 5000) - low).abs().max() < 1e-6
    if new > old:
        assert (low - sound)[:, middle].abs().max() < 0.01


def test_unrelated_rates_are_met_closely() -> None:
    time = torch.arange(44_101) / 44_101
    tone = torch.sin(2 * torch.pi * 440 * time)[None]
    found = resample(tone, 44_101, 24_000)
    wanted = torch.sin(2 * torch.pi * 440 * torch.arange(found.shape[1]) / 24_000)
    assert found.shape[1] == 24_000 and (found - wanted)[:, 100:-100].abs().max() < 0.01


def test_beyond_the_end_is_silence() -> None:
    signal = Resampled(Array(noise(), RATE), RATE, 21_000)
    assert signal.read(20_000, 21_000)[:, 3:].abs().max() == 0 and signal.read(20_500, 20_600).shape == (2, 100)


def test_channels() -> None:
    sound = noise(2)
    assert torch.equal(mix(sound, 2), sound)
    assert torch.equal(Mixed(Array(sound, RATE), 1).read(0, 9), sound[:, :9].mean(0, keepdim=True))
    assert torch.equal(mix(sound[:1], 2), sound[:1].expand(2, -1))
    assert mix(noise(6), 2).shape == (2, 20_003)


@pytest.mark.parametrize("samples", [1, 700, 20_003])
def test_spectrogram_shows_a_tone_at_its_place(samples: int) -> None:
    time = torch.arange(samples) / RATE
    tone = Array(torch.sin(2 * torch.pi * 1000 * time)[None], RATE)
    found = spectrogram(tone, columns=50, rows=200)
    assert found.levels.shape[0] == 200 and found.levels.shape[1] <= 50 and found.highest == RATE / 2
    if samples > 700:
        row = int(found.levels.mean(1).argmax())
        hertz = 700 * (10 ** (row / 199 * _mel(RATE / 2) / 2595) - 1)
        assert abs(hertz - 1000) < 30
    picture = draw_spectrogram(found, width=120)
    assert picture.shape[0] == 3 and isinstance(to_pil(picture), Image.Image)


def _mel(hertz: float) -> float:
    return 2595 * float(torch.log10(torch.tensor(1 + hertz / 700)))


def test_spectrogram_reads_no_more_of_an_hour() -> None:
    class Hour(Array):
        asked = 0

        def read(self, start: int, stop: int) -> torch.Tensor:
            self.asked += stop - start
            return torch.zeros(1, stop - start)

    hour = Hour(torch.zeros(1, 1), RATE)
    hour.length = 3600 * RATE
    assert spectrogram(hour, columns=100).levels.shape[1] == 100 and hour.asked <= 100 * 512
