"""`zoo list`, `zoo info`, `zoo train`, `zoo doctor` and the help of every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import zoo
from zoo import training
from zoo.cli import doctor
from zoo.generators.pipeline import build

Cli = Callable[..., Result]
COMMANDS = [
    *(
        "list",
        "info",
        "tokenize",
        "detokenize",
        "reconstruct",
        "train",
        "prepare-meshes",
        "evaluate",
        "report",
        "curve",
    ),
    *("probe", "gfid", "export", "generate", "verify", "doctor"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(cli: Cli, command: str) -> None:
    shown = cli(command, "--help")
    assert shown.exit_code == 0 and f"zoo {command}" in shown.stdout and "Examples" in shown.stdout


def test_help_and_version(cli: Cli) -> None:
    shown = cli("--help")
    assert shown.exit_code == 0 and all(command in shown.stdout for command in COMMANDS)
    assert cli("--version").stdout.strip() == f"tokenizer-zoo {zoo.__version__}"


def test_list(cli: Cli) -> None:
    shown = cli("list", "titok_*")
    assert shown.exit_code == 0 and all(name in shown.stdout for name in zoo.list_models("titok_*"))
    assert "onedpiece" not in shown.stdout
    items = json.loads(cli("list", "--json").stdout)
    assert [item["name"] for item in items] == zoo.list_models() and "license" in items[0]["weights"]
    assert cli("list", "no_such_*").stdout.strip() == "no model matches 'no_such_*'"
    assert set(cli("list", "--recipes").stdout.split()) == set(zoo.list_recipes())
    assert json.loads(cli("list", "--recipes", "titok_*", "--json").stdout) == zoo.list_recipes("titok_*")
    assert cli("list", "--modality", "smell").exit_code == 2


def test_info_of_a_card(cli: Cli) -> None:
    shown = cli("info", "titok_s128_imagenet")
    assert shown.exit_code == 0
    for part in (
        "4,096 codes",
        "1,536 per item",
        "apache-2.0",
        "rFID",
        "1.71",
        "imagenet-val-50k",
        "center-256",
        "2406.07550",
    ):
        assert part in shown.stdout, part
    facts = json.loads(cli("info", "titok_s128_imagenet", "--json").stdout)
    assert facts["spec"]["num_tokens"] == 128 and facts["params"] == 83_674_639 and facts["metrics"][0]["value"] == 1.71


def test_info_of_a_folder_and_a_recipe(cli: Cli, flexible: str) -> None:
    assert json.loads(cli("info", flexible, "--json").stdout)["family"] == "OneDPiece"
    shown = cli("info", "titok_tiny")
    assert shown.exit_code == 0 and "zoo train titok_tiny" in shown.stdout
    wrong = cli("info", "titok_s182_imagenet")
    assert wrong.exit_code == 2 and "closest: titok_s128_imagenet" in wrong.stderr


def test_train_hands_over(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(training, "train", lambda recipe, overrides: calls.append((recipe, overrides)))
    assert cli("train", "titok_tiny", "trainer.max_steps=2", "data.root=/x").exit_code == 0
    assert calls == [("titok_tiny", ["trainer.max_steps=2", "data.root=/x"])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["titok_tny"], "no recipe 'titok_tny'; closest: titok_tiny"),
        (["titok_tiny", "max_steps"], "overrides are key=value, got 'max_steps'"),
        (["titok_tiny", "no.such.key=3"], "titok_tiny"),
    ],
)
def test_train_usage_errors(cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("must not train"))
    shown = cli("train", *arguments)
    assert shown.exit_code == 2 and message in shown.stderr


def test_doctor(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=2", "numpy<1", "no-such-package; extra == 'play'", "pytest; extra == 'dev'"]
    monkeypatch.setattr(doctor, "requires", lambda _: wanted)
    monkeypatch.setenv("ZOO_HUB", "/some/hub")
    shown = cli("doctor")
    assert shown.exit_code == 1
    for part in ("torch", "needs <1", "missing", "pip install 'tokenizer-zoo[play]'", "cpu", "ZOO_HUB=/some/hub"):
        assert part in shown.stdout, part
    assert "pytest" not in shown.stdout
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=2"])
    fine = cli("doctor")
    assert fine.exit_code == 0 and "everything is in place" in fine.stdout


def test_info_of_generators(cli: Cli, tmp_path: Path) -> None:
    recipe = " ".join(cli("info", "maskgit_tiny").stdout.split())
    assert "MaskGIT" in recipe and "zoo train maskgit_tiny data.tokens=DIR" in recipe
    vocabulary = {"_target_": "zoo.generators.Vocabulary", "codebook_sizes": [16], "num_tokens": 8}
    node = {"_target_": "zoo.generators.GPT", "vocabulary": vocabulary, "width": 16, "depth": 1, "heads": 2}
    build(node).save_pretrained(tmp_path / "gpt")
    facts = json.loads(cli("info", str(tmp_path / "gpt"), "--json").stdout)
    assert facts["family"] == "GPT" and facts["vocabulary"]["num_tokens"] == 8 and facts["params"] > 0
    assert "codes of no known name" in cli("info", str(tmp_path / "gpt")).stdout


def test_generators_are_listed_apart(cli: Cli) -> None:
    assert "no model matches" in cli("list", "rar_*").stdout
    listed = json.loads(cli("list", "rar_*", "--generators", "--json").stdout)
    assert [item["name"] for item in listed] == [f"rar_{size}_imagenet" for size in ("b", "l", "xl", "xxl")]
    facts = json.loads(cli("info", "rar_b_imagenet", "--json").stdout)
    assert facts["vocabulary"]["codebook_sizes"] == [1024] and facts["classes"] == 1000
    shown = cli("info", "rar_b_imagenet").stdout
    assert "image codes of maskgit_vqgan_imagenet_f16" in shown and "gFID" in shown
