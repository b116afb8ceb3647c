"""`zoo verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import Device, complain, find_device

if TYPE_CHECKING:
    from zoo.store.cards import KnownAnswer
    from zoo.store.verify import Verdict

__all__ = ["verify"]


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names from `zoo list`; by default the models of the package.")
    ] = None,
    sample: Annotated[
        Path | None, typer.Option("--sample", help="Input of an answer that is for a published file.")
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Weight file that you have, for one name.")] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer and line.")] = False,
) -> None:
    """Load published weights and compare the codes they give with those that are known.

    The codes of one input or several stand on a model's card: stated by its authors, or measured when the model was
    put into the package. Weights are fetched from the hub if need be, and must fit the model strictly. Leaves with 1
    when codes differ by more than the card tolerates, and with 2 when nothing can be compared.

    \b
    Examples:
      zoo verify
      zoo verify fsq_f8_tiny --json
      zoo verify wavtokenizer_large_unify_40
      zoo verify titok_l32_imagenet --sample ILSVRC2012_val_00010240.png
    """
    from zoo.store.cards import card

    with complain():
        chosen = names or [name for name in answered() if card(name).weights.embedded]
        if len(chosen) > 1 and (sample is not None or weights is not None):
            raise ValueError(f"--sample and --weights are for one model, got {len(chosen)}")
        items = [card(name) for name in chosen]
        if without := [item.name for item in items if not item.known_answers]:
            raise ValueError(f"no known answers for {', '.join(without)}; known for: {', '.join(answered())}")
    failed = 0
    for item in items:
        with complain():
            verdicts = check(item.name, item.known_answers, sample, weights, device)
        for verdict in verdicts:
            failed += not verdict.passed
            typer.echo(json.dumps(record(item.name, verdict)) if as_json else line(item.name, verdict))
    if failed:
        raise typer.Exit(1)


def answered() -> list[str]:
    """Models with known answers."""
    from zoo.store.cards import cards

    return [item.name for item in cards() if item.known_answers]


def check(
    name: str, answers: tuple[KnownAnswer, ...], sample: Path | None, weights: Path | None, device: str
) -> list[Verdict]:
    """The verdicts on one model."""
    from zoo.store.load import load
    from zoo.store.verify import verify_answer

    if sample is None and (files := [answer.input for answer in answers if answer.input["kind"] == "file"]):
        raise FileNotFoundError(
            f"{name}: the known codes are for {files[0]['file']} of {files[0]['of']}, which does not come with the "
            "package; fetch it and pass it with --sample"
        )
    tokenizer = load(name, weights=weights, device=find_device(device))
    return [verify_answer(tokenizer, answer, sample) for answer in answers]


def line(name: str, verdict: Verdict) -> str:
    """One line for people."""
    answer, total = verdict.answer, len(verdict.answer.tokens)
    what = describe(answer.input)
    allowed = f", {answer.tolerance} may differ" if answer.tolerance else ""
    good = f"{total - verdict.different} of {total} codes agree{allowed}"
    about = f"input: {what}; source: {answer.source}"
    if verdict.passed:
        return f"{name}: ok, {good}; {about}"
    place = verdict.first
    if place is None:
        return f"{name}: DIFFERENT, {verdict.count} positions instead of {answer.count}; {about}"
    came = verdict.tokens[place] if place < len(verdict.tokens) else "nothing"
    return (
        f"{name}: DIFFERENT, {good}; the first that does not is number {place}: expected {answer.tokens[place]}, "
        f"got {came}; {about}"
    )


def describe(given: dict[str, Any]) -> str:
    """An input in words."""
    if given["kind"] == "sine":
        return f"{given['amplitude']:g} * sin(2 pi {given['frequency']:g} t), {given['seconds']:g} s"
    if given["kind"] == "ellipsoid":
        return f"an ellipsoid of radii {', '.join(f'{radius:g}' for radius in given['radii'])}"
    return str(given["file"]) + (f" of {given['of']}" if "of" in given else "")


def record(name: str, verdict: Verdict) -> dict[str, Any]:
    """One object for programs."""
    return {
        "name": name,
        "passed": verdict.passed,
        "different": verdict.different,
        "first_difference": verdict.first,
        "count": verdict.count,
        "tokens": list(verdict.tokens),
        "answer": asdict(verdict.answer),
    }
