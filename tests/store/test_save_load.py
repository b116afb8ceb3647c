"""Model folders: what is saved loads equal; what is hostile or broken is refused and runs nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.families import TiTok
from zoo.store import build as build_module
from zoo.store import cards as cards_module
from zoo.store import load as load_module
from zoo.store.build import build
from zoo.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


def image(tokenizer: Tokenizer) -> torch.Tensor:
    return torch.rand(2, *tokenizer.spec.input_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def same(one: Tokenizer, two: Tokenizer) -> bool:
    x = image(one)
    with torch.no_grad():
        tokens = one.encode(x)
        return tokens.equal(two.encode(x)) and torch.equal(one.decode(tokens), two.decode(tokens))


def test_folder_round_trip(tokenizer: Tokenizer, folder: Path, node: dict[str, Any]) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == 1 and config["tokenizer"] == node and config["zoo_version"] == zoo.__version__
    assert config["spec"]["num_tokens"] == 6
    text = (folder / "README.md").read_text()
    assert "library_name: tokenizer-zoo" in text and "any prefix decodes" in text
    for name in (folder, str(folder)):
        loaded = zoo.load(name)
        assert not loaded.training and loaded.config == node and same(tokenizer, loaded)
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_saving_twice_replaces(tokenizer: Tokenizer, folder: Path) -> None:
    with torch.no_grad():
        next(tokenizer.parameters()).add_(1)
    tokenizer.save_pretrained(folder)
    assert same(tokenizer, zoo.load(folder)) and len(list(folder.iterdir())) == 3


def test_half_weights_are_widened(tokenizer: Tokenizer, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({key: v.half() if v.is_floating_point() else v for key, v in state.items()}, folder / "model.safetensors")
    assert {p.dtype for p in zoo.load(folder).parameters()} == {torch.float32}
    half = zoo.load(folder, dtype=torch.bfloat16)
    assert half.encoder.patch_embedding.weight.dtype == torch.bfloat16
    assert {p.dtype for p in half.quantizer.parameters()} == {torch.float32}


def test_hand_made_tokenizers_cannot_be_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.config = {}
    with pytest.raises(ValueError, match="put together by hand"):
        tokenizer.save_pretrained(tmp_path / "x")
    tokenizer.config = {"_target_": object()}
    with pytest.raises(ValueError, match="plain data"):
        tokenizer.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no model 'no_such_model'"):
        zoo.load("no_such_model")
    for name in (tmp_path / "none", "./none", "a/b/c", "~/none/none"):
        with pytest.raises(FileNotFoundError, match="no model folder"):
            zoo.load(name)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        zoo.load(tmp_path)


def test_the_folder_of_a_training_leads_to_its_model(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*model\?"):
        zoo.load(run)


def test_incomplete_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        zoo.load(folder)


def test_weights_of_another_model(folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"keys missing \(.*\), 1 keys unexpected \(a\)"):
        zoo.load(folder)


def hostile(folder: Path, change: dict[str, Any] | None = None, **document: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["tokenizer"] |= change or {}
    (folder / "config.json").write_text(json.dumps(config | document))


@pytest.fixture
def sentinel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that would appear if anything ran: `os.system` and `torch.hub.load` are set to make it."""
    path = tmp_path / "ran"
    monkeypatch.setattr(os, "system", lambda *_: path.touch())
    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: path.touch())
    monkeypatch.setattr(os, "getenv", lambda *_: path.touch())
    return path


SYSTEM = {"_target_": "os.system", "command": "touch ran"}


@pytest.mark.parametrize(
    "change",
    [
        SYSTEM,
        {"_target_": "zoo.tokenizer.torch.hub.load", "repo_or_dir": "evil/evil", "model": "x"},
        {"_target_": "zoo.families.titok.torch.hub.load"},
        {"_target_": "zoo.families.os.system"},
        {"_target_": "zoo.families.__builtins__"},
        {"_target_": "encoders.torch.load"},
        {"_target_": "zoo.data.ImageData"},
        {"_target_": "zoo.objectives.ImageObjective"},
        {"_target_": "builtins.eval"},
        {"_target_": ["os.system"]},
        {"_target_": None},
        {"_target_": ""},
        {"encoder": SYSTEM},
        {"quantizer": [{"_target_": "quantizers.FSQ", "levels": SYSTEM}]},
        {"decoder": {"deep": [[{"deeper": {"x": [SYSTEM]}}]]}},
        {"_args_": ["touch ran"], "_target_": "os.system"},
        {"_partial_": True},
        {"_recursive_": False},
        {"_convert_": "all"},
        {"_call_": "os.system"},
        {"encoder": {"_target_": "encoders.ViT1D", "_args_": [1, 2]}},
        {"quantizer": "${oc.env:HOME}"},
        {"encoder": {"_target_": "encoders.ViT1D", "width": "${oc.env:HOME}"}},
        {"encoder": ["${oc.decode:'${oc.env:HOME}'}"]},
        {"_target_": "${oc.env:SHELL}"},
    ],
)
def test_hostile_configs_run_nothing(folder: Path, sentinel: Path, change: dict[str, Any]) -> None:
    hostile(folder, change)
    with pytest.raises(ValueError, match=r"refused|must be text|is not a tokenizer|a tokenizer node is a mapping"):
        zoo.load(folder)
    assert not sentinel.exists()


def test_configs_that_are_not_ours(folder: Path) -> None:
    for text in ("", "{", "[]", "null", '{"format": 2, "tokenizer": {}}', '{"format": 1, "tokenizer": []}', '{"a": 1}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            zoo.load(folder)
    (folder / "config.json").write_text('{"a":' + "[" * 200_000)
    with pytest.raises(ValueError, match=r"config\.json is refused"):
        zoo.load(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.json is refused"):
        zoo.load(folder)
    (folder / "config.json").write_text(" " * 10_000_001)
    with pytest.raises(ValueError, match="expected at most"):
        zoo.load(folder)


def test_yaml_in_place_of_json_is_refused(folder: Path, sentinel: Path) -> None:
    (folder / "config.json").write_text("!!python/object/apply:os.system ['touch ran']")
    with pytest.raises(ValueError, match=r"config\.json is refused"):
        zoo.load(folder)
    assert not sentinel.exists()


def test_links_that_leave_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        outside = tmp_path / name
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)
        with pytest.raises(ValueError, match="a link that leaves the folder"):
            zoo.load(folder)
        (folder / name).unlink()
        outside.rename(folder / name)
    assert zoo.load(folder)


def test_a_snapshot_of_the_hub_cache_is_a_model_folder(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(blobs / name)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert zoo.load(snapshot)


def test_every_non_persistent_buffer_is_filled(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from zoo.families import OneDPiece

    start = OneDPiece.__init__

    def with_table(self: OneDPiece, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        self.decoder.register_buffer("table", torch.arange(3), persistent=False)

    monkeypatch.setattr(OneDPiece, "__init__", with_table)
    assert zoo.load(folder).decoder.table.tolist() == [0, 1, 2]


CARD = """
family: OneDPiece
title: A model
modality: image
weights: {{hub: org/name, sha256: {digest}, license: {license}, layout: zoo}}
recipe: a_recipe
"""


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: dict[str, Any], folder: Path) -> Path:
    """A card `a_model` of layout zoo whose weights lie in a folder that acts as the hub."""
    hub = tmp_path / "hub"
    (hub / "org").mkdir(parents=True)
    folder.rename(hub / "org" / "name")
    shelf = tmp_path / "cards"
    shelf.mkdir()
    monkeypatch.setattr(cards_module, "CARDS", shelf)
    monkeypatch.setattr(
        load_module, "build", lambda recipe, **kw: build(node if recipe == "a_recipe" else recipe, **kw)
    )
    monkeypatch.setenv("ZOO_HUB", str(hub))
    (shelf / "a_model.yaml").write_text(CARD.format(digest="null", license="cc-by-nc-4.0"))
    load_module.tell_license.cache_clear()
    return shelf


def test_card_weights_and_licence(known: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zoo"):
        assert same(tokenizer, zoo.load("a_model")) and same(tokenizer, zoo.load("org/name"))
    assert [record.getMessage() for record in caplog.records] == [
        "a_model: its weights are under 'cc-by-nc-4.0', which is not an open licence; read its terms before use"
    ]


def test_card_digest(known: Path) -> None:
    (known / "b_model.yaml").write_text(CARD.format(digest="a" * 64, license="mit"))
    with pytest.raises(ValueError, match=f"expected sha256 {'a' * 64}"):
        zoo.load("b_model")
    with pytest.raises(ValueError, match="org/name holds several models; load one of a_model, b_model"):
        zoo.load("org/name")


def test_missing_embedded_file(known: Path) -> None:
    text = CARD.format(digest="null", license="mit").replace("hub: org/name", "embedded: true")
    (known / "c_model.yaml").write_text(text)
    with pytest.raises(FileNotFoundError, match="c_model: its weights belong to the package"):
        zoo.load("c_model")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system"])
def test_yaml_tags_in_recipes_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentinel: Path, tag: str
) -> None:
    (tmp_path / "evil.yaml").write_text(f"tokenizer:\n  _target_: {tag}\n")
    for module in (cards_module, build_module):
        monkeypatch.setattr(module, "RECIPES", tmp_path)
    with pytest.raises(ValueError, match=r"evil.*could not determine a constructor for the tag"):
        zoo.build("evil")
    assert not sentinel.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_card_with_the_reference_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    case = GOLDEN / "titok" / ("vq_single_stage" if suffix == "bin" else "vae_single_stage")
    state = load_file(case / "state.safetensors")
    home = tmp_path / "hub" / "org" / "name" / "sub"
    home.mkdir(parents=True)
    file = home / f"weights.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save({"model": state}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    config = json.loads((case / "config.json").read_text())["config"]
    weights = {"hub": "org/name", "file": f"sub/{file.name}", "sha256": digest, "license": "mit", "layout": "reference"}
    card = {"family": "TiTok", "title": "t", "modality": "image", "weights": weights, "config": config}
    (tmp_path / "a_case.yaml").write_text(json.dumps(card))
    monkeypatch.setattr(cards_module, "CARDS", tmp_path)
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    tokenizer = zoo.load("a_case")
    assert same(tokenizer, TiTok.from_reference(config, state))
    assert same(tokenizer, zoo.load(tokenizer.save_pretrained(tmp_path / "saved")))
