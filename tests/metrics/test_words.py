"""Words: jiwer counts the same, PocketSphinx hears real speech, a CTC network runs in transformers' pipeline."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo.metrics.recognizers import PocketSphinx, SpeechPipeline, _pipeline
from zoo.metrics.words import Transcripts, WordErrorRate, edits, normalize

SPEECH = Path(__file__).parents[2] / "docs/assets/speech"
SAID = {
    "young_man.flac": "he was not an ill disposed young man",
    "cold_hearted.flac": "unless to be rather cold hearted and rather selfish is to be ill disposed",
}
WORDS = st.lists(st.sampled_from(["a", "bee", "sea", "d"]), max_size=6)


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


class Stored:
    """A recogniser that reads the answer off the first sample."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = texts, 0

    def __call__(self, x: Tensor) -> str:
        self.asked += 1
        return self.texts[round(float(x[0]) * 100)]

    def details(self) -> dict[str, object]:
        return {"recognizer": "stored"}


def sound(*numbers: int) -> Tensor:
    return torch.tensor(numbers)[:, None, None].expand(-1, 1, 800) / 100


@given(said=WORDS, heard=WORDS)
def test_edits_are_those_of_jiwer(said: list[str], heard: list[str]) -> None:
    need("jiwer")
    import jiwer

    if said:
        assert edits(said, heard) / len(said) == pytest.approx(jiwer.wer(" ".join(said), " ".join(heard)))
        one, two = " ".join(said), " ".join(heard)
        assert edits(one, two) / len(one) == pytest.approx(jiwer.cer(one, two))
    assert edits(said, heard) == edits(heard, said) and edits(said, said) == 0


def test_rates_of_a_set_are_those_of_jiwer() -> None:
    need("jiwer")
    import jiwer

    texts = ("the cat sat", "The cat, sat!", "a dog sat down here", "a dog", "", "something")
    metric = WordErrorRate(16000, Stored(*texts))
    metric.update(sound(1, 3, 5), sound(0, 2, 4), torch.tensor([800, 800, 300]))
    metric.update(sound(0), sound(2))
    said = ["the cat sat", "a dog sat down here", "a dog sat down here"]
    heard = ["the cat sat", "a dog", "the cat sat"]
    found = metric.compute()
    assert float(found["words"]) == pytest.approx(100 * jiwer.wer(said, heard))
    assert float(found["characters"]) == pytest.approx(100 * jiwer.cer(said, heard))
    assert metric.count == 3 and metric.skipped == 1  # nothing was said in one
    assert metric.recognizer.asked == 6  # originals once, and nobody listens where nothing was said


def test_text_is_normalised() -> None:
    assert normalize("Don\u2019t stop\u2014it's  \uff26\uff49\uff4e\uff45; 'tis 5!") == "don't stop it's fine tis 5"
    assert normalize("_ ... '") == "" and normalize("Stra\u00dfe \u00c9t\u00e9") == "stra\u00dfe \u00e9t\u00e9"


def test_transcripts_lie_beside_sounds(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.txt").write_text("the CAT sat\n")
    metric = WordErrorRate(16000, Stored("the cat", "x"), transcripts=Transcripts(tmp_path))
    metric.update(sound(0), sound(1), names=["a/one.wav"])
    assert float(metric.compute()["words"]) == pytest.approx(100 / 3) and metric.details()["said"] == "transcripts"
    with pytest.raises(FileNotFoundError, match=r"no transcript .*two\.txt"):
        metric.update(sound(0), sound(1), names=["two.wav"])
    with pytest.raises(ValueError, match="names of 1 sounds"):
        metric.update(sound(0), sound(1))
    with pytest.raises(FileNotFoundError, match=r"NAME\.txt"):
        Transcripts(tmp_path / "none")


def test_nothing_said_at_all() -> None:
    metric = WordErrorRate(16000, Stored(""))
    metric.update(sound(0), sound(0))
    assert math.isnan(metric.compute()["words"]) and metric.skipped == 1


def read(name: str) -> Tensor:
    import soundfile

    samples, rate = soundfile.read(SPEECH / name, dtype="float32")
    assert rate == 16000
    return torch.from_numpy(samples)


def test_pocketsphinx_hears_speech() -> None:
    """Most of two sentences of an audio book, the same again later, and nothing in silence."""
    need("pocketsphinx", "soundfile")
    listen = PocketSphinx()
    heard = {name: normalize(listen(read(name))) for name in SAID}
    errors = sum(edits(said.split(), heard[name].split()) for name, said in SAID.items())
    assert errors / sum(len(said.split()) for said in SAID.values()) < 0.5
    assert listen(torch.zeros(16000)) == ""
    clean, metric = read("young_man.flac")[None, None], WordErrorRate(16000, listen)
    metric.update(clean, clean)  # after another sound it hears the same
    assert normalize(metric.remembered(clean[0, 0])) == heard["young_man.flac"]
    assert float(metric.compute()["words"]) == 0
    metric.update(torch.zeros_like(clean), clean)
    assert float(metric.compute()["words"]) == 50
    assert metric.details()["recognizer"] == "pocketsphinx en-us"


def test_a_network_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "org/tiny"
    folder.mkdir(parents=True)
    letters = ["<pad>", "<unk>", "|", *"abcdefgh"]
    (folder / "vocab.json").write_text(json.dumps({letter: place for place, letter in enumerate(letters)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2, mask_time_prob=0.0, pad_token_id=0,
    )  # fmt: skip
    net = transformers.Wav2Vec2ForCTC(config).eval()
    net.save_pretrained(folder)
    x = 0.3 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    inputs = extractor(x.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    expected = tokenizer.decode(net(inputs).logits[0].argmax(-1))
    monkeypatch.setenv("ZOO_HUB", str(tmp_path))
    reader = SpeechPipeline("org/tiny")
    assert reader(x) == expected != ""
    assert reader.details()["recognizer"] == "org/tiny"
    with pytest.raises(ConnectionError, match=r"recogniser org/none cannot be had.*--weights recognizer=FOLDER"):
        SpeechPipeline("org/none")
    _pipeline.cache_clear()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pocketsphinx: pip install tokenizer-zoo\[words\]"):
        PocketSphinx()
    with pytest.raises(ModuleNotFoundError, match=r"transformers: pip install tokenizer-zoo\[speech\]"):
        SpeechPipeline("org/tiny")
