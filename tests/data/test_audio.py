"""Random clips of sound: sources, seeking, rates, channels, levels, silence, damage, order."""

from __future__ import annotations

import io
import json
import math
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

soundfile = pytest.importorskip("soundfile")

from zoo.data import AudioData  # noqa: E402
from zoo.data.audio import AudioFile, read_audio, write_audio  # noqa: E402
from zoo.data.clips import Clips, Floor, Level  # noqa: E402
from zoo.data.draws import ErrorLog  # noqa: E402
from zoo.data.loudness import decibels, set_level  # noqa: E402
from zoo.data.signals import resample  # noqa: E402
from zoo.data.sources import SOUNDS, FolderSource, HubSource, ShardSource, Window, open_source  # noqa: E402

SPEECH = Path(__file__).parents[1] / "assets" / "speech.flac"
RATE = 8000


def tone(seconds: float, hertz: float = 220.0, rate: int = RATE, channels: int = 1) -> torch.Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    return 0.5 * torch.sin(2 * math.pi * hertz * time).repeat(channels, 1)


def ramp(samples: int) -> torch.Tensor:
    """A sound (1, samples) whose every sample says where it stands, exactly in 16 bits."""
    return (torch.arange(samples) / 32768)[None]


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight noisy tones of 0.5 to 2.25 s in four formats, two of them in a folder below."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        sound = tone(0.5 + number / 4, 100.0 * (number + 1)).numpy()[0]
        sound = sound + rng.uniform(-0.05, 0.05, len(sound))
        name = f"more/{number}" if number > 5 else f"{number}"
        soundfile.write(folder / f"{name}.{('wav', 'flac', 'ogg', 'mp3')[number % 4]}", sound, RATE)
    return folder


def data(root: Path | str, **options: Any) -> AudioData:
    settings = {"sample_rate": RATE, "seconds": 0.25, "batch_size": 4, "num_workers": 0, "val_fraction": 0.0}
    return AudioData(str(root), **{**settings, **options})


def batches(source: AudioData, count: int) -> list[torch.Tensor]:
    source.setup()
    return list(islice(source.train_dataloader(), count))


def equal(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, two) for one, two in zip(left, right, strict=True))


def clips(root: Path, **options: Any) -> Clips:
    source = FolderSource(root, SOUNDS)
    settings = {"samples": 800, "sample_rate": RATE, **options}
    return Clips(source, range(len(source.names)), **settings)


def test_batches_repeat_and_depend_on_the_seed(sounds: Path) -> None:
    first = batches(data(sounds), 3)
    assert all(batch.shape == (4, 1, 2000) and batch.dtype == torch.float32 for batch in first)
    assert equal(first, batches(data(sounds), 3))
    assert not torch.equal(first[0], batches(data(sounds, seed=1), 1)[0])
    assert max(float(batch.abs().max()) for batch in first) <= 1
    assert data(sounds, seconds=0.38, sample_rate=24000).samples == 9120


@pytest.mark.parametrize(
    "options", [{"draw": "files"}, {"draw": "seconds", "min_peak": -20.0}], ids=["files", "seconds"]
)
def test_workers_change_nothing(sounds: Path, options: dict[str, Any]) -> None:
    options = {**options, "normalize": "rms", "level": [-30.0, -20.0], "sample_rate": 11025}
    assert equal(batches(data(sounds, **options), 3), batches(data(sounds, num_workers=2, **options), 3))


def test_a_clip_does_not_depend_on_those_before(sounds: Path) -> None:
    one, two = clips(sounds), clips(sounds)
    later = one[(3, 70)]
    two.__getitems__([(index, index) for index in range(8)])
    assert torch.equal(two[(3, 70)], later)
    assert not torch.equal(two[(3, 71)], later)


def test_memory_gives_the_clips_of_the_files(tmp_path: Path) -> None:
    for number in range(3):
        write_audio(tmp_path / f"{number}.flac", torch.randn(1, 3000).clamp(-4, 4) / 8, RATE)
    options = {"draw": "seconds", "normalize": "gain", "level": [-3.0, 3.0]}
    assert equal(batches(data(tmp_path, **options), 3), batches(data(tmp_path, cache="ram", **options), 3))
    other = {**options, "sample_rate": 11025, "channels": 2}
    pairs = zip(batches(data(tmp_path, **other), 2), batches(data(tmp_path, cache="ram", **other), 2), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_only_the_clip_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "long.flac", ramp(30000), RATE)
    read: list[int] = []
    decode = AudioFile._decode
    monkeypatch.setattr(AudioFile, "_decode", lambda self, a, b: read.append(b - a) or decode(self, a, b))
    found = clips(tmp_path)[(0, 1)]
    assert read == [800]
    start = round(float(found[0, 0]) * 32768)
    assert start > 0 and torch.equal(found, ramp(30000)[:, start : start + 800])
    read.clear()
    clips(tmp_path, sample_rate=16000)[(0, 1)]
    assert 400 <= sum(read) < 500


def test_clips_of_other_rates_are_cut_from_the_resampled_whole(tmp_path: Path) -> None:
    for old, new in ((44100, 24000), (8000, 24000), (22050, 16000)):
        sound = torch.randn(1, old // 2) / 8
        write_audio(tmp_path / "one.wav", sound, old, bits=32)
        whole = resample(sound, old, new)
        found = clips(tmp_path, sample_rate=new, samples=1000)[(0, 5)]
        places = [place for place in range(whole.shape[1] - 999) if abs(whole[0, place] - found[0, 0]) < 1e-5]
        assert any(torch.allclose(whole[:, place : place + 1000], found, atol=1e-5) for place in places)


def test_channels_are_mixed_or_copied(tmp_path: Path) -> None:
    left, right = tone(0.5, 100), tone(0.5, 300)
    write_audio(tmp_path / "stereo.wav", torch.cat([left, right]), RATE, bits=32)
    mono, stereo = (clips(tmp_path, channels=channels, samples=4000)[(0, 0)] for channels in (1, 2))
    torch.testing.assert_close(mono, (left + right) / 2)
    torch.testing.assert_close(stereo, torch.cat([left, right]))
    write_audio(tmp_path / "stereo.wav", left, RATE, bits=32)
    torch.testing.assert_close(clips(tmp_path, channels=2, samples=4000)[(0, 0)], left.expand(2, -1))


def test_short_files_are_tiled_or_padded(tmp_path: Path) -> None:
    write_audio(tmp_path / "short.wav", ramp(300), RATE)
    tiled, padded = (clips(tmp_path, short=short)[(0, 0)] for short in ("tile", "pad"))
    assert torch.equal(tiled, ramp(300).repeat(1, 3)[:, :800])
    assert torch.equal(padded[:, :300], ramp(300)) and not padded[:, 300:].any()
    assert padded.shape == (1, 800)


def test_seconds_draw_long_files_more_often(tmp_path: Path) -> None:
    for name, samples in (("long", 8000), ("short", 800), ("tiny", 100)):
        write_audio(tmp_path / f"{name}.wav", ramp(samples), RATE)
    assert Counter(clips(tmp_path, by="seconds").indices) == {0: 10, 1: 1, 2: 1}
    assert Counter(clips(tmp_path, by="seconds", cache=True, sample_rate=16000).indices) == {0: 20, 1: 2, 2: 1}
    assert Counter(clips(tmp_path).indices) == {0: 1, 1: 1, 2: 1}


def test_silence_is_left_out(tmp_path: Path) -> None:
    sound = torch.zeros(1, 16000)
    sound[:, 12000:13000] = tone(0.125)
    write_audio(tmp_path / "mostly.wav", sound, RATE)
    heard = clips(tmp_path, floor=Floor(peak=-32.0), samples=2000)
    anything = clips(tmp_path, samples=2000)
    assert sum(bool(heard[(0, draw)].any()) for draw in range(20)) >= 17
    assert sum(bool(anything[(0, draw)].any()) for draw in range(20)) <= 10
    write_audio(tmp_path / "mostly.wav", torch.zeros(1, 16000), RATE)
    assert not heard[(0, 0)].any()
    # A click passes a peak, not a root mean square.
    click = torch.zeros(1, 800)
    click[:, 5] = 0.5
    assert Floor(peak=-10.0).excess(click, RATE) > 0 > Floor(peak=-10.0, rms=-30.0).excess(click, RATE)


def test_levels() -> None:
    sound = tone(1.0, 997.0, 48000)
    assert decibels(sound, "peak", 48000) == pytest.approx(-6.02, abs=0.01)
    assert decibels(sound, "rms", 48000) == pytest.approx(-9.03, abs=0.01)
    # EBU Tech 3341: a sine of 1 kHz at -23 dB of full scale on both channels has -23 LUFS, on one channel -26.
    quiet = sound * 10 ** ((-23.0 + 6.02) / 20)
    assert decibels(quiet.expand(2, -1), "lufs", 48000) == pytest.approx(-23.0, abs=0.1)
    assert decibels(quiet[:, : 48000 // 4], "lufs", 48000) < -26.0
    for measure in ("peak", "rms", "lufs"):
        for level in (-40.0, -20.0):
            assert decibels(set_level(sound, level, measure, 48000), measure, 48000) == pytest.approx(level, abs=0.05)
    torch.testing.assert_close(set_level(sound, -6.0, "gain", 48000), sound * 10**-0.3)
    assert float(set_level(sound, -1.0, "rms", 48000).abs().max()) == pytest.approx(1.0)
    faint = sound * 1e-6
    torch.testing.assert_close(set_level(faint, -1.0, "peak", 48000), faint * 100)
    for measure in ("peak", "rms", "lufs"):
        assert decibels(torch.zeros(1, 100), measure, RATE) == -70.0
        assert not set_level(torch.zeros(1, 100), -3.0, measure, RATE).any()


def test_levels_are_drawn_in_training_and_fixed_in_validation(sounds: Path) -> None:
    source = data(sounds, normalize="peak", level=[-12.0, -2.0], val_fraction=0.3, val_size=6, batch_size=8)
    peaks = 20 * batches(source, 1)[0].abs().amax((1, 2)).log10()
    assert peaks.min() >= -12.01 and peaks.max() <= -1.99 and peaks.std() > 0.5
    one, two = list(source.val_dataloader()), list(source.val_dataloader())
    assert equal(one, two) and sum(map(len, one)) == 6
    torch.testing.assert_close(20 * torch.cat(one).abs().amax((1, 2)).log10(), torch.full((6,), -7.0))
    level = Level("gain", -6.0, -6.0)
    torch.testing.assert_close(clips(sounds, level=level)[(0, 0)], clips(sounds)[(0, 0)] * 10**-0.3)


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_shards_give_the_clips_of_the_folder(sounds: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in sorted(sounds.rglob("*.*"))}
    names = [*list(files)[:6], "6.ogg", "7.mp3"]
    shard(tmp_path / "a-0.tar", {name: files[name] for name in names[:5]} | {"0.json": b"{}"})
    shard(tmp_path / "a-1.tar", {name: files[name] for name in names[5:]})
    source = open_source(tmp_path, kind=SOUNDS)
    assert isinstance(source, ShardSource) and len(source.names) == 8
    assert equal(batches(data(tmp_path, num_workers=2), 3), batches(data(sounds), 3))
    with pytest.raises(ValueError, match="hold no sound files"):
        open_source(shard(tmp_path / "b.tar", {"picture.png": b"x"}), kind=SOUNDS)


def test_a_window_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    with (tmp_path / "file").open("rb") as file, io.BufferedReader(Window(file.fileno(), 10, 20)) as window:
        assert window.read() == bytes(range(10, 30))
        assert window.seek(-5, os.SEEK_END) == 15 and window.read(3) == bytes((25, 26, 27))
        assert window.seek(-1, os.SEEK_CUR) == 17 and window.read() == bytes((27, 28, 29)) and window.read() == b""
        assert window.seek(50) == 50 and window.read() == b""
        assert file.tell() == 0


def test_saved_data_sets_give_the_clips_of_the_folder(sounds: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [str(sounds / name) for name in FolderSource(sounds, SOUNDS).names]
    rows = datasets.Dataset.from_dict({"words": [str(number) for number in range(8)], "sound": paths})
    rows = rows.cast_column("sound", datasets.Audio(decode=False))
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "saved"))
    source = open_source(tmp_path / "saved", "train", SOUNDS)
    assert isinstance(source, HubSource) and source.caption(3) == "3"
    assert equal(batches(data(tmp_path / "saved"), 3), batches(data(sounds), 3))
    with pytest.raises(ValueError, match="no column of images"):
        open_source(tmp_path / "saved", "train")


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"cache": "ram"}, {"draw": "seconds"}], ids=str)
def test_damaged_files_are_skipped_and_recorded(tmp_path: Path, options: dict[str, Any]) -> None:
    root = tmp_path / "mixed"
    root.mkdir()
    write_audio(root / "good.flac", tone(1.0), RATE)
    whole = (root / "good.flac").read_bytes()
    (root / "empty.wav").write_bytes(b"")
    (root / "text.mp3").write_text("no sound")
    (root / "cut.flac").write_bytes(whole[: len(whole) // 50])
    (root / "header.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt ")
    write_audio(root / "nan.wav", torch.full((1, 4000), torch.nan), RATE, bits=32)
    source = data(root, batch_size=6, **options)
    source.record_errors(tmp_path / "errors.jsonl")
    found = batches(source, 3)
    assert all(bool(batch.abs().amax((1, 2)).gt(0.4).all()) for batch in found)
    lines = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert {line["item"] for line in lines} == {"empty.wav", "text.mp3", "cut.flac", "header.wav", "nan.wav"}
    assert source.errors.count == 5


def test_a_file_that_breaks_off_gives_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "half.flac").write_bytes(SPEECH.read_bytes()[:30000])
    write_audio(tmp_path / "other.wav", torch.full((1, 20000), 0.5), 16000)
    whole = read_audio(SPEECH)
    log = ErrorLog()
    found = clips(tmp_path, sample_rate=16000, errors=log)
    drawn = [found[(0, draw)] for draw in range(20)]
    substitutes = [bool((clip == 0.5).all()) for clip in drawn]
    assert 0 < sum(substitutes) < 20 and log.count == 1
    clip = drawn[substitutes.index(False)]
    places = (whole[0] == clip[0, 0]).nonzero()[:, 0].tolist()
    assert any(torch.equal(whole[:, place : place + 800], clip) for place in places)
    # Another process, which has not met the damage yet, draws the same.
    assert equal([clips(tmp_path, sample_rate=16000)[(0, draw)] for draw in range(19, 14, -1)], drawn[:14:-1])


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"nothing")
    for options in ({}, {"by": "seconds"}, {"cache": True}):
        with pytest.raises(ValueError, match=r"none of the 1 sound files can be read.*a\.wav"):
            clips(tmp_path, **options)[(0, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "/nowhere/at/all"}, "does not exist; give a folder of sound files"),
        ({"normalize": "loud"}, "data.normalize is one of none, gain, peak, rms, lufs, got 'loud'"),
        ({"cache": "disk"}, "data.cache is one of none, ram"),
        ({"channels": 6}, "data.channels is 1 or 2"),
        ({"seconds": 0.0}, "above 0"),
        ({"level": [0.0, -3.0]}, "low <= high"),
        ({"normalize": "rms", "level": [-3.0, 3.0]}, "at most 0 dB"),
        ({"min_peak": 3.0}, "below 0"),
        ({"val_fraction": 1.0}, "val_fraction"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data(**{"root": tmp_path, **options}).setup()
    with pytest.raises(ValueError, match="holds no sound files"):
        data(tmp_path).setup()
