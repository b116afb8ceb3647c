"""Sounds of any rate, channels and length on their way through a tokenizer, and the measures at its other end."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from decoders import SEANetDecoder
from encoders import SEANetEncoder
from quantizers import VQ, Residual
from zoo.data.signals import resample
from zoo.evaluation.measures import MEASURES, Context, sounds
from zoo.evaluation.outcome import Outcome, Setting
from zoo.evaluation.passage import Passage
from zoo.evaluation.protocols import list_protocols, protocol
from zoo.evaluation.views.sounds import SoundItem, SoundOptions, SoundView
from zoo.families.codec import AudioCodec

soundfile = pytest.importorskip("soundfile")

SPEECH = Path(__file__).parents[2] / "docs/assets/speech"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    torch.manual_seed(0)
    return zoo.build("rvq_tiny_24k").eval()


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def wav(samples: Tensor, rate: int) -> bytes:
    """A WAV file of floats (C, T)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T.numpy(), rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def noise(channels: int, count: int, seed: int = 0) -> Tensor:
    return 0.2 * torch.randn(channels, count, generator=torch.Generator().manual_seed(seed))


def only(view: SoundView, items: list[SoundItem], *settings: Setting) -> list[Outcome]:
    return [outcome for _, outcome in view.run(items, settings or (Setting(),))]


def test_a_file_is_brought_to_both_rates(tokenizer: Any) -> None:
    view = SoundView(Passage(tokenizer), {"sample_rate": 16000})
    stereo = noise(2, 44100)
    item = view.read(wav(stereo, 44100), "a.wav")
    mono = stereo.mean(0, keepdim=True)
    torch.testing.assert_close(item.samples, resample(mono, 44100, 24000))
    torch.testing.assert_close(item.target, resample(mono, 44100, 16000))
    assert item.seconds == 1 and item.name == "a.wav"
    (outcome,) = only(view, [item])
    made = tokenizer.decode(tokenizer.encode(item.samples[None]))
    torch.testing.assert_close(outcome.output[0], resample(made[0], 24000, 16000).clamp(-1, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outcome.target[0], item.target)
    assert outcome.lengths is None and outcome.extent.tolist() == [1.0] and outcome.extent.dtype == torch.float64


def test_sounds_of_several_lengths_come_back_as_if_alone(tokenizer: Any) -> None:
    view = SoundView(Passage(tokenizer), {"sample_rate": 16000})
    items = [view.read(wav(noise(1, count, count), 16000), f"{count}.wav") for count in (4000, 4803, 4501)]
    together = only(view, items, Setting(), Setting(codebooks=1))
    for number, setting in enumerate((Setting(), Setting(codebooks=1))):
        outcome = together[number]
        assert outcome.lengths is not None and outcome.lengths.tolist() == [4000, 4803, 4501]
        for row, item in enumerate(items):
            (alone,) = only(view, [item], setting)
            count = int(outcome.lengths[row])
            torch.testing.assert_close(outcome.output[row, :, :count], alone.output[0], rtol=1e-3, atol=1e-4)
            assert not outcome.output[row, :, count:].any() and not outcome.target[row, :, count:].any()
    assert together[0].tokens.indices.shape[2] > together[1].tokens.indices.shape[2] == 1


def test_batches_hold_sounds_of_about_one_length(tokenizer: Any) -> None:
    view = SoundView(Passage(tokenizer), {"chunk": 2})

    def shape(count: int, name: str = "a") -> Any:
        return view.shape(SoundItem(name, torch.zeros(1, count), torch.zeros(1, count), count / 24000))

    lengths = range(100, 48001, 50)
    for one, two in pairwise(lengths):
        assert shape(one) <= shape(two)
    assert all(max(group) <= 1.25 * min(group) for group in _groups(lengths, shape))
    assert shape(60000, "a") != shape(60000, "b")  # long ones run alone


def _groups(lengths: range, shape: Any) -> list[list[int]]:
    found: dict[Any, list[int]] = {}
    for length in lengths:
        found.setdefault(shape(length), []).append(length)
    return list(found.values())


def test_long_sounds_go_through_in_pieces(tokenizer: Any) -> None:
    sound = wav(noise(1, 30000), 24000)
    whole, pieces = SoundView(Passage(tokenizer), {}), SoundView(Passage(tokenizer), {"chunk": 0.5})
    one, two = (only(view, [view.read(sound, "a.wav")], Setting(codebooks=2))[0] for view in (whole, pieces))
    assert torch.equal(one.tokens.indices, two.tokens.indices)
    torch.testing.assert_close(one.output, two.output, rtol=1e-3, atol=1e-4)
    assert "exact" in pieces.describe()["longer_than_chunk"]
    assert pieces.passage.encoding.batches == 1 and pieces.passage.decoding[Setting(codebooks=2)].items == 1


def test_seconds_and_levels(tokenizer: Any) -> None:
    view = SoundView(Passage(tokenizer), {"seconds": 0.25, "levels": "pcm16"})
    item = view.read(wav(noise(1, 16000), 16000), "a.wav")
    assert item.seconds == 0.25 and item.target.shape == (1, 6000)
    (outcome,) = only(view, [item])
    torch.testing.assert_close(outcome.output * 32768, (outcome.output * 32768).round(), rtol=0, atol=0)
    assert outcome.output.max() < 1


@pytest.mark.parametrize("count", [1, 100])
def test_very_short_and_silent_files_run(tokenizer: Any, count: int) -> None:
    """Measures that are not defined for them say so by `skipped`."""
    view = SoundView(Passage(tokenizer), {"sample_rate": 16000})
    items = [view.read(wav(torch.zeros(1, count), 16000), "silent.wav")]
    (outcome,) = only(view, items)
    assert outcome.output.shape[-1] == count
    context = Context(tokenizer.spec, view={"sample_rate": 16000})
    for name in ("si_sdr", "si_sdr_aligned", "sdr", "pitch_yin", "mel_distance", "stft_distance"):
        metric = MEASURES[name].build(context)
        MEASURES[name].feed(metric, outcome)
        found = metric.compute()
        defined = name.endswith("distance")
        assert bool((metric.skipped == (0 if defined else 1)).all()), name
        assert defined or all(math.isnan(value) for value in (found.values() if isinstance(found, dict) else [found]))


def test_stereo_tokenizers_get_both_channels() -> None:
    """Two channels are two recordings; a mono file is copied to both."""
    torch.manual_seed(0)
    encoder = SEANetEncoder(dim=8, width=4, strides=(2, 5), channels=2)
    decoder = SEANetDecoder(dim=8, width=4, strides=(5, 2), channels=2)
    stereo = AudioCodec(encoder, Residual(VQ(8, 16), 2), decoder, 24000).eval()
    view = SoundView(Passage(stereo), {"sample_rate": 16000})
    for channels in (2, 1):
        item = view.read(wav(noise(channels, 8000), 16000), "a.wav")
        assert item.samples.shape[0] == item.target.shape[0] == 2
        (outcome,) = only(view, [item])
        metric = MEASURES["sdr"].build(Context(stereo.spec, view={"sample_rate": 16000}))
        MEASURES["sdr"].feed(metric, outcome)
        assert metric.count == 2 and metric.channels == 2
    assert "mixed to 2" in view.describe()["channels"]


def test_bad_files_are_refused(tokenizer: Any) -> None:
    view = SoundView(Passage(tokenizer), {})
    cut = (SPEECH / "young_man.flac").read_bytes()[:20000]
    broken = noise(1, 1000)
    broken[0, 5] = math.nan
    for data, message in (
        (b"", "the file is empty"),
        (b"not a sound" * 100, "not a sound file"),
        (wav(torch.zeros(1, 0), 16000), "no samples"),
        (wav(broken, 16000), "sample 5 .* NaN"),
        (cut, "breaks off|damaged"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            view.read(data, "x.wav")
        assert not str(caught.value).startswith("x.wav")


def test_options_are_checked(tokenizer: Any) -> None:
    for view, message in (
        ({"rate": 16000}, "no option rate; there are sample_rate"),
        ({"levels": "pcm8"}, "view.levels is one of float, pcm16"),
        ({"sample_rate": 0}, "view.sample_rate is above 0"),
        ({"chunk": "x"}, "view.chunk is above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SoundView(Passage(tokenizer), view)
    with pytest.raises(ValueError, match="is no tokenizer of sound"):
        SoundView(Passage(zoo.build("fsq_f8_tiny")), {})


def test_samples_are_sounds_with_spectrograms(tokenizer: Any, tmp_path: Path) -> None:
    view = SoundView(Passage(tokenizer), {"sample_rate": 16000})
    items = [view.read(path.read_bytes(), path.name) for path in sorted(SPEECH.glob("*.flac"))[:2]]
    (outcome,) = only(view, items)
    for row, item in enumerate(items):
        path = view.sample(outcome, row, tmp_path / f"{row}.a.b", original=True)
        assert path.name == f"{row}.a.b.wav" and path.with_name(f"{row}.a.b.png").is_file()
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == 16000 and len(samples) == item.target.shape[1]
        torch.testing.assert_close(torch.from_numpy(samples), item.target[0], rtol=0, atol=1e-4)
    assert view.sample(outcome, 0, tmp_path / "made", original=False).is_file()


def test_measures_of_sounds_all_work(tokenizer: Any) -> None:
    """Every measure that needs no download gives its numbers for real speech, beside plain data on how."""
    view = SoundView(Passage(tokenizer), {"sample_rate": 16000, "seconds": 1.5})
    path = SPEECH / "young_man.flac"
    item = view.read(path.read_bytes(), path.name)
    (outcome,) = only(view, [item])
    context = Context(tokenizer.spec, view={"sample_rate": 16000, "seconds": 1.5})
    options: dict[str, dict[str, Any]] = {"pitch": {"size": "tiny"}}
    for measure in sounds.MEASURES:
        name = measure.name
        if name in ("utmos", "speaker_similarity"):
            continue
        try:
            metric = measure.build(context, **options.get(name, {}))
        except ModuleNotFoundError as error:
            assert f"tokenizer-zoo[{measure.extra}]" in str(error)
            continue
        measure.feed(metric, outcome)
        found = metric.compute()
        assert set(found if isinstance(found, dict) else {"": found}) == set(measure.numbers), name
        assert isinstance(measure.details(metric), dict)


def test_context_says_where_weights_lie(tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    context = Context(tokenizer.spec, weights={"utmos": tmp_path / "none.ckpt", "speaker": tmp_path})
    with pytest.raises(FileNotFoundError, match=r"none.ckpt"):
        MEASURES["utmos"].build(context)
    with pytest.raises(ValueError, match="no network of transformers"):
        MEASURES["speaker_similarity"].build(context)


@pytest.mark.parametrize("name", list_protocols("audio"))
def test_protocols_of_sounds_fit_view_and_measures(
    name: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_HUB", str(tmp_path))
    found = protocol(name)
    options = SoundOptions.read(found.view)
    assert options.sample_rate in (16000, 24000, 44100) and found.source and found.notes
    assert bool(found.published) != name.startswith("plain")
    context = Context(tokenizer.spec, view=found.view)
    for measure, several in found.metrics.items():
        assert "audio" in MEASURES[measure].modalities
        for given in several:
            try:
                MEASURES[measure].build(context, **given)
            except (ModuleNotFoundError, FileNotFoundError, ConnectionError):
                assert MEASURES[measure].extra
