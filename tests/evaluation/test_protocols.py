"""Protocols are data: read strictly, named with their source, recognised by their digest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import zoo
from zoo.evaluation import list_protocols, protocol
from zoo.evaluation.measures import MEASURES, Context
from zoo.evaluation.passage import Passage
from zoo.evaluation.plan import asked_for, resolve
from zoo.evaluation.protocols import DEFAULTS, default_protocol
from zoo.evaluation.views.images import ImageView

GOOD = {
    "title": "Mine",
    "modality": "image",
    "source": "a paper",
    "view": {"size": 64, "resize": "adm", "levels": "round"},
    "metrics": {"psnr": {}},
}


def write(folder: Path, name: str = "mine.yaml", **changes: object) -> Path:
    data = {key: value for key, value in {**GOOD, **changes}.items() if value != "absent"}
    path = folder / name
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_there_are_the_protocols_of_the_papers() -> None:
    names = {"titok", "adm", "llamagen", "seed_voken", "mar", "clean_fid", "plain"}
    assert names <= set(list_protocols("image")) <= set(list_protocols())
    for modality, name in DEFAULTS.items():
        assert default_protocol(modality).name == name and name in list_protocols(modality)


@pytest.mark.parametrize("name", list_protocols())
def test_every_protocol_says_its_source_and_can_be_built(name: str) -> None:
    item = protocol(name)
    assert item.title and len(item.source) > 10 and item.notes and item.metrics
    assert item.reference in ("paired", "statistics", "either")
    assert len(asked_for(item, None)) >= len(item.metrics)


@pytest.mark.parametrize("name", list_protocols("image"))
def test_measures_take_the_options_of_protocols(name: str) -> None:
    tokenizer = zoo.load("fsq_f8_tiny")
    (item,) = resolve(protocol(name), [tokenizer.spec])
    ImageView(Passage(tokenizer), item.view)
    for asked in asked_for(item, None):
        options = {key: value for key, value in asked.options.items() if key != "levels"}
        try:
            asked.measure.build(Context(tokenizer.spec, view=item.view), **options)
        except (RuntimeError, OSError, ImportError) as error:
            assert "weights" in str(error) or "pip install" in str(error)


def test_a_size_is_another_protocol() -> None:
    titok, small = protocol("titok"), protocol("titok@128")
    assert small.name == "titok@128" and small.view["size"] == 128 and small.digest != titok.digest
    assert protocol("titok@256") == titok == titok.at(256)
    assert small.at(64).name == "titok@64"
    with pytest.raises(ValueError, match="number of pixels, such as titok@128"):
        protocol("titok@big")
    with pytest.raises(ValueError, match="has no size to change"):
        protocol("plain_shape@64")


def test_the_digest_is_of_what_changes_numbers(tmp_path: Path) -> None:
    mine = protocol(write(tmp_path))
    same = (("title", "Other"), ("source", "another"), ("published", "x"), ("notes", ["careful"]), ("samples", 9))
    for key, value in same:
        assert protocol(write(tmp_path, **{key: value})).digest == mine.digest, key
    others = (("view", {**GOOD["view"], "levels": "float"}), ("reference", "paired"), ("metrics", {"ssim": {}}))
    for key, value in others:
        assert protocol(write(tmp_path, **{key: value})).digest != mine.digest, key
    assert replace(mine, name="else").digest == mine.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": "x"}, "no key 'sources'; closest: source"),
        ({"source": "absent"}, "needs 'source'; say where it is stated"),
        ({"source": ""}, "needs 'source'"),
        ({"title": "absent"}, "needs 'title'"),
        ({"modality": "video"}, "modality is one of image, audio, shape, got 'video'"),
        ({"reference": "both"}, "reference is one of paired, statistics, either"),
        ({"samples": "many"}, "samples is a whole number"),
        ({"view": {"size": 0}}, "view.size is a number of pixels"),
        ({"metrics": {"psnr": [1, 2]}}, "options of psnr are a mapping"),
        ({"metrics": {"psnr": [{}, {}]}}, "psnr has one number and takes one set"),
        ({"metrics": {"pesq": {}}}, "pesq is for audio, this is a protocol for image"),
        ({"notes": [3]}, "notes are texts"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        protocol(write(tmp_path, **changes))


def test_more_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no measure 'psrn'; closest: psnr"):
        protocol(write(tmp_path, metrics={"psrn": {}}))
    with pytest.raises(KeyError, match="no protocol 'titk'; closest: titok"):
        protocol("titk")
    with pytest.raises(FileNotFoundError, match="no protocol file"):
        protocol("absent.yaml")
    with pytest.raises(ValueError, match="lower case letters"):
        protocol(write(tmp_path, "Mine Own.yaml"))
    path = tmp_path / "broken.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(ValueError, match="not a plain YAML file"):
        protocol(path)
    path.write_text("- a", encoding="utf-8")
    with pytest.raises(ValueError, match="a protocol is a mapping, got list"):
        protocol(path)


def test_the_example_of_the_docs_is_a_protocol(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/evaluate.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    mine = protocol(path)
    assert mine.name == "mine" and mine.metrics["psnr"] == [{"average": "pixels"}]
    ImageView(Passage(zoo.load("onedpiece_tiny_128")), mine.view)


def test_measures_can_be_narrowed_and_added() -> None:
    titok = protocol("titok")
    assert [item.measure.name for item in asked_for(titok, ["psnr", "rfid"])] == ["psnr", "rfid"]
    assert asked_for(titok, ["rfid"])[0].options == titok.metrics["rfid"][0]
    assert [item.measure.name for item in asked_for(titok, ["+psnr"])] == [*titok.metrics, "psnr"]
    nets = [item.options["net"] for item in asked_for(protocol("seed_voken"), ["lpips"])]
    assert nets == ["alex", "vgg"]
    with pytest.raises(ValueError, match="pesq is for audio, titok is for image"):
        asked_for(titok, ["pesq"])


def test_the_size_of_the_tokenizer_becomes_part_of_the_name() -> None:
    free, fixed = zoo.load("fsq_f8_tiny").spec, zoo.load("onedpiece_tiny_128").spec
    assert [item.name for item in resolve(protocol("plain"), [free, fixed])] == ["plain@128", "plain@128"]
    (whole,) = resolve(protocol("plain"), [free])
    assert whole.name == "plain" and whole.size is None
    assert [item.size for item in resolve(protocol("titok"), [free, fixed])] == [256, 256]
    wide = replace(fixed, input_shape=(3, 128, 96))
    with pytest.raises(ValueError, match="there is none for a tokenizer of 128 x 96"):
        resolve(protocol("plain"), [wide])
    with pytest.raises(ValueError, match="titok is for image tokenizers, one of these is for audio"):
        resolve(protocol("titok"), [replace(fixed, modality="audio")])


def test_every_measure_is_described() -> None:
    for name, item in MEASURES.items():
        assert item.name == name and item.numbers and item.modalities, name


def test_protocols_are_listed_without_torch() -> None:
    code = "import sys; from zoo.evaluation import list_protocols; list_protocols(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
