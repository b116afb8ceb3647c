"""Cards and recipe names: read without torch, validated, suggested on a typo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.store.cards import card, cards, safe_name

GOOD = """
family: TiTok
title: A model
modality: image
weights: {hub: org/name, file: model.safetensors, sha256: null, license: apache-2.0, layout: reference, embedded: false}
config: {model: {}}
params: 7
metrics: [{name: rFID, value: 2.21, data: imagenet-val-50k, crop: center-256, origin: "reported: paper"}]
notes: null
"""


def write(folder: Path, text: str, name: str = "a_model") -> Path:
    (folder / f"{name}.yaml").write_text(text)
    return folder


def test_card_fields(tmp_path: Path) -> None:
    item = card("a_model", write(tmp_path, GOOD))
    assert (item.name, item.family, item.params, item.notes) == ("a_model", "TiTok", 7, "")
    assert item.weights.hub == "org/name" and not item.weights.research_only
    assert item.metrics[0].value == 2.21 and item.to_dict()["metrics"][0]["crop"] == "center-256"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("family: TiTok", "", "a card lacks family"),
        ("title:", "titel:", "unknown keys"),
        ("modality: image", "modality: smell", "modality is one of"),
        ("layout: reference", "layout: other", "weights.layout is one of"),
        ("config: {model: {}}", "", "needs config"),
        ("layout: reference", "layout: zoo", "needs recipe"),
        ("hub: org/name", "hub: org", "weights.hub is org/name"),
        ("hub: org/name", "hub: null", "needs a hub id"),
        ("sha256: null", "sha256: abc", "64 lower-case"),
        ("license: apache-2.0, ", "", "weights lacks license"),
        ('"reported: paper"', "paper", "has an origin"),
        ("params: 7", "params: many", "params is a whole number"),
        ("value: 2.21, ", "", "a metric lacks value"),
        ("file: model.safetensors", "file: ../../etc/passwd", "stay inside its folder"),
        ("file: model.safetensors", "file: /etc/passwd", "stay inside its folder"),
        ("weights: {", "weights: !!python/object/apply:os.system {", "not a plain YAML card"),
        ("title: A model", "title: !!python/name:os.system", "not a plain YAML card"),
        ("title: A model", "title: [", "not a plain YAML card"),
        (GOOD, "- a\n- b", "a card is a mapping"),
    ],
)
def test_bad_cards_are_told_apart(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        card("a_model", write(tmp_path, GOOD.replace(old, new)))
    assert str(caught.value).startswith("a_model.yaml: ")


def test_suggestions(tmp_path: Path) -> None:
    for name in ("titok_l32", "titok_b64", "onedpiece_s256"):
        write(tmp_path, GOOD, name)
    with pytest.raises(KeyError, match="no model 'titok_l23'; closest: titok_l32, titok_b64"):
        card("titok_l23", tmp_path)
    with pytest.raises(KeyError, match="no model 'zzz'; see `zoo list`"):
        card("zzz", tmp_path)
    assert [item.name for item in cards(tmp_path)] == ["onedpiece_s256", "titok_b64", "titok_l32"]


def test_listing_filters() -> None:
    names = zoo.list_models()
    assert names == sorted(names)
    assert set(zoo.list_models(embedded=True)) | set(zoo.list_models(embedded=False)) == set(names)
    assert zoo.list_models("no_such_*") == []
    assert "trellis_ss_16l8" in zoo.list_models(modality="shape")
    assert set(zoo.list_models("titok_*")) == {name for name in names if name.startswith("titok_")}
    with pytest.raises(ValueError, match="modality is one of image, audio, shape"):
        zoo.list_models(modality="smell")


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_card_reads(name: str) -> None:
    from zoo import families

    item = card(name)
    assert item.family in families.__all__
    assert item.recipe is None or item.recipe in zoo.list_recipes()
    if item.weights.embedded:
        assert item.weights_path.is_file() and item.weights.sha256 is not None


@pytest.mark.parametrize("name", ["/a", "../a", "a/../../b", "C:/a", "a\\b", "", None, "a\0b", "."])
def test_unsafe_file_names(name: object) -> None:
    with pytest.raises(ValueError, match="refused"):
        safe_name(name)


def test_safe_file_names() -> None:
    assert safe_name("sub/model.safetensors") == "sub/model.safetensors"


@pytest.mark.parametrize(
    "code",
    [
        "import zoo; zoo.list_models(); zoo.list_recipes()",
        "import sys; sys.argv = ['zoo', '--help']\nfrom zoo.cli import main\ntry:\n    main()\nexcept SystemExit: pass",
        "import sys; sys.argv = ['zoo', 'list']\nfrom zoo.cli import main\ntry:\n    main()\nexcept SystemExit: pass",
    ],
)
def test_light_commands_load_no_torch(code: str) -> None:
    check = "\nimport sys\nassert not {'torch', 'numpy', 'hydra', 'huggingface_hub'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
