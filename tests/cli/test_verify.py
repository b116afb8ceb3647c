"""`zoo verify`: codes that cards state, and a local stand-in for the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import Result

import zoo
from zoo.store import cards as store
from zoo.store.cards import KnownAnswer, card
from zoo.store.verify import SAMPLES, known_input, state_answer, verify_answer

Cli = Callable[..., Result]
ASSETS = Path(__file__).parents[1] / "assets"
SINE = {"kind": "sine", "frequency": 440, "amplitude": 0.5, "seconds": 0.1}
NAME = "stand_in"


def contiguous(tokenizer: zoo.Tokenizer) -> dict[str, torch.Tensor]:
    """Its weights as safetensors takes them."""
    return {key: value.contiguous() for key, value in tokenizer.state_dict().items()}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a card for a recipe's random weights, which are on a stand-in for the hub, in place of the package's."""
    folder, hub = tmp_path / "cards", tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(store, "CARDS", folder)
    monkeypatch.setenv("ZOO_HUB", str(hub))

    def put(recipe: str, *answers: dict[str, Any], weights: bool = True) -> Path:
        torch.manual_seed(0)
        tokenizer = zoo.build(recipe).eval()
        file = hub / "org" / NAME / "model.safetensors"
        file.parent.mkdir(parents=True)
        if weights:
            save_file(contiguous(tokenizer), file)
        stated = [{**answer, "tokens": list(answer["tokens"])} for answer in answers]
        content = {
            "family": type(tokenizer).__name__,
            "title": "A stand-in",
            "modality": tokenizer.spec.modality,
            "weights": {"hub": f"org/{NAME}", "license": "mit", "layout": "zoo"},
            "recipe": recipe,
            "known_answers": stated,
        }
        (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(content))
        store._read.cache_clear()
        return folder

    yield put
    store._read.cache_clear()


def stated(recipe: str, given: dict[str, Any], most: int = 12) -> dict[str, Any]:
    torch.manual_seed(0)
    answer = state_answer(zoo.build(recipe).eval(), given, "measured", most=most)
    return {"input": given, "tokens": answer.tokens, "count": answer.count, "source": "measured"}


@pytest.mark.parametrize(
    ("recipe", "given"),
    [("encodec_tiny", SINE), ("fsq_f8_tiny", {"kind": "sample", "file": "chelsea.png", "size": [32, 32]})],
)
def test_right_and_wrong_answers(cli: Cli, shelf: Any, recipe: str, given: dict[str, Any]) -> None:
    good = stated(recipe, given)
    wrong = {**good, "tokens": [*good["tokens"][:3], good["tokens"][3] + 1, *good["tokens"][4:]]}
    shelf(recipe, good, {**wrong, "tolerance": 1})
    made = cli("verify", NAME)
    assert made.exit_code == 0, made.output
    assert (
        "ok, 12 of 12 codes agree; input: " in made.stdout and "ok, 11 of 12 codes agree, 1 may differ" in made.stdout
    )


def test_a_difference_is_exit_code_1(cli: Cli, shelf: Any) -> None:
    good = stated("encodec_tiny", SINE)
    wrong = (good["tokens"][0] + 1) % 1024
    shelf("encodec_tiny", good, {**good, "tokens": [wrong, *good["tokens"][1:]]}, {**good, "count": 4})
    made = cli("verify", NAME)
    assert made.exit_code == 1
    first, second, third = made.stdout.splitlines()
    assert "ok" in first and f"number 0: expected {wrong}, got {good['tokens'][0]}" in second
    assert "5 positions instead of 4" in third
    rows = [json.loads(line) for line in cli("verify", NAME, "--json").stdout.splitlines()]
    assert [row["passed"] for row in rows] == [True, False, False]
    assert rows[1]["first_difference"] == 0 and rows[1]["answer"]["input"] == SINE


def test_weights_that_cannot_be_had(cli: Cli, shelf: Any, tmp_path: Path) -> None:
    shelf("encodec_tiny", stated("encodec_tiny", SINE), weights=False)
    made = cli("verify", NAME)
    assert made.exit_code == 2 and f"org/{NAME}: no file 'model.safetensors'" in made.stderr
    own = tmp_path / "own.safetensors"
    torch.manual_seed(0)
    save_file(contiguous(zoo.build("encodec_tiny")), own)
    assert cli("verify", NAME, "--weights", own).exit_code == 0
    torch.manual_seed(1)
    save_file(contiguous(zoo.build("encodec_tiny")), own)
    assert cli("verify", NAME, "--weights", own).exit_code == 1


def test_answers_for_files_that_the_user_has(cli: Cli, shelf: Any) -> None:
    good = stated("fsq_f8_tiny", {"kind": "sample", "file": "chelsea.png", "size": [32, 32]})
    shelf("fsq_f8_tiny", {**good, "input": {"kind": "file", "file": "cat.png", "of": "org/photos", "size": [32, 32]}})
    made = cli("verify", NAME)
    assert made.exit_code == 2 and "cat.png of org/photos" in made.stderr and "--sample" in made.stderr
    assert cli("verify", NAME, "--sample", SAMPLES / "chelsea.png").exit_code == 0
    assert cli("verify", NAME, "--sample", ASSETS / "coffee.jpg").exit_code == 1


def test_models_without_answers(cli: Cli, shelf: Any) -> None:
    shelf("encodec_tiny")
    made = cli("verify", NAME)
    assert made.exit_code == 2 and f"no known answers for {NAME}" in made.stderr
    assert cli("verify", "no_such_model").exit_code == 2
    assert "are for one model, got 2" in cli("verify", NAME, NAME, "--sample", "a.png").stderr


EMBEDDED = [name for name in zoo.list_models(embedded=True) if card(name).weights_path.is_file()]


@pytest.mark.skipif(not EMBEDDED, reason="no embedded weights in this checkout")
def test_embedded_models_are_what_they_were(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = cli("verify")
    assert made.exit_code == 0, made.output
    assert [line.partition(":")[0] for line in made.stdout.splitlines()] == [
        name for name in EMBEDDED for _ in card(name).known_answers
    ]


@pytest.mark.parametrize("name", zoo.list_models(embedded=True))
def test_every_embedded_card_has_an_answer(name: str) -> None:
    assert card(name).known_answers, "state one with zoo.store.verify.state_answer"


def test_published_answers() -> None:
    (titok,) = card("titok_l32_imagenet").known_answers
    assert titok.count == len(titok.tokens) == 32 and titok.tokens[0] == 887 and titok.tolerance == 0
    assert titok.input["kind"] == "file" and titok.input["size"] == [256, 256]


def test_inputs() -> None:
    tokenizer = zoo.build("encodec_tiny").eval()
    x = known_input(tokenizer, SINE)
    assert x.shape == (1, 1, 1600) and float(x.abs().max()) == pytest.approx(0.5, abs=1e-4)
    assert known_input(zoo.build("onedpiece_tiny_128"), {"kind": "sample", "file": "chelsea.png"}).shape[1:] == (
        3,
        128,
        128,
    )
    answer = KnownAnswer(SINE, (1, 2), "nobody")
    with pytest.raises(ValueError, match="a sine is an input for audio"):
        verify_answer(zoo.build("fsq_f8_tiny"), answer)
    with pytest.raises(ValueError, match="is continuous"):
        verify_answer(zoo.build("kl_f8_tiny"), KnownAnswer({"kind": "sample", "file": "chelsea.png"}, (1,), "nobody"))


GOOD = """
family: EnCodec
title: A model
modality: audio
weights: {hub: org/name, license: mit, layout: zoo}
recipe: encodec_tiny
known_answers:
  - {input: {kind: sine, frequency: 440, amplitude: 0.5, seconds: 0.5}, tokens: [1, 2, 3], source: paper, tolerance: 1}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: sine", "kind: noise", "one of sine, ellipsoid, sample, file"),
        ("frequency: 440, ", "", "an input of kind sine has frequency, amplitude, seconds"),
        ("seconds: 0.5", "seconds: 0.5, volume: 2", "an input of kind sine has"),
        ("[1, 2, 3]", "[]", "at least one"),
        ("[1, 2, 3]", "[1, -2]", "whole numbers"),
        ("[1, 2, 3]", "[1, 2.5]", "whole numbers"),
        ("tolerance: 1", "tolerance: 3", "tolerance lies below the number of tokens"),
        ("source: paper, ", "", "a known answer lacks source"),
        (
            "{kind: sine, frequency: 440, amplitude: 0.5, seconds: 0.5}",
            "{kind: sample, file: ../secret.wav}",
            "stay inside its folder",
        ),
    ],
)
def test_bad_answers_are_told_apart(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    (tmp_path / "a_model.yaml").write_text(GOOD)
    assert card("a_model", tmp_path).known_answers[0].tolerance == 1
    (tmp_path / "b_model.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=message):
        card("b_model", tmp_path)
