"""Many results as one page: what is ranked together, what is not, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation.make_results import number, run, setting
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from zoo.cli import app
from zoo.evaluation.report.groups import Apart, Group, apart, group_runs
from zoo.evaluation.report.leaderboard import collect, find_results, write_leaderboard
from zoo.evaluation.results import Measured, Results, Run, write_results


def measured(model: str, numbers: Mapping[str, float | Measured], **options: Any) -> Run:
    return run(model, [setting(numbers, protocol=options.get("protocol", "titok"))], **options)


def models(group: Group) -> list[str]:
    return [row.model for row in group.rows]


def reasons(*runs: Run) -> list[str]:
    found: list[Apart] = apart(group_runs(runs))
    return [reason for item in found for reason in item.reasons]


ONE = measured("one", {"psnr": 20.0})


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"protocol": "adm"}, "another protocol: titok and adm: resize pil_bicubic instead of adm; levels truncate"),
        ({"data": "sketches"}, "other data: photos and sketches (digests "),
        ({"items": 50, "available": 5000}, "other samples: 100 images and 50 of 5,000 images"),
        ({"reference": {"kind": "statistics", "file": "adm.npz", "sha256": "ab" * 32}}, "another reference: the orig"),
        ({"failed": ["a.png"]}, "1 item of 100 failed for two"),
    ],
)
def test_what_differs_is_never_compared_and_the_page_says_why(other: dict[str, Any], why: str) -> None:
    two = measured("two", {"psnr": 30.0}, **other)
    groups = group_runs([ONE, two])
    assert [models(group) for group in groups] == [["one"], ["two"]]
    assert not any(group.cell(group.rows[0], group.columns[0]).best for group in groups)
    assert reasons(ONE, two)[0].startswith(why)
    assert len({group.title for group in groups}) == 2


def test_conventions_alone_are_worth_more_than_most_gaps() -> None:
    assert "1.3 dB PSNR and 0.11 SSIM apart" in reasons(ONE, measured("one", {"psnr": 21.3}, protocol="adm"))[-1]
    (found,) = apart(group_runs([ONE, measured("one", {"psnr": 21.3}, protocol="adm")]))
    assert found.keys == ("psnr[titok]", "psnr[adm]")


def test_same_names_with_other_contents_are_told_apart() -> None:
    mine = replace(ONE, protocol=replace(ONE.protocol, digest="0" * 64))
    groups = group_runs([ONE, mine])
    assert [group.title.rsplit("(", 1)[1] for group in groups] == [f"{ONE.protocol.digest[:8]})", "00000000)"]
    assert reasons(ONE, mine)[0] == (
        f"another protocol: titok: options of its measures (digest {ONE.protocol.digest[:8]} instead of 00000000)"
    )


def test_what_has_nothing_in_common_is_not_mentioned() -> None:
    assert reasons(ONE, measured("two", {"rfid": 3.0}, protocol="adm")) == []
    assert reasons(ONE, measured("two", {"psnr": 3.0}, protocol="adm", data="other", failed=["a"])) == []


@settings(max_examples=50, deadline=None)
@given(
    kinds=st.lists(
        st.tuples(st.sampled_from(["titok", "adm"]), st.sampled_from(["a", "b"]), st.integers(1, 3), st.booleans()),
        max_size=12,
    ),
    order=st.randoms(use_true_random=False),
)
def test_groups_hold_what_is_equal_whatever_the_order(kinds: list[tuple[str, str, int, bool]], order: Any) -> None:
    runs = [
        measured(f"m{place}", {"psnr": 1.0 * place}, protocol=name, data=data, items=items, failed=["x"] * fails)
        for place, (name, data, items, fails) in enumerate(kinds)
    ]
    order.shuffle(runs)
    groups = group_runs(runs)
    assert sorted(name for group in groups for name in models(group)) == sorted(item.model for item in runs)
    complete = {kind for kind in kinds if not kind[3]}
    assert len(groups) == len(complete) + sum(kind[3] for kind in kinds)
    for group in groups:
        facts = {(row.run.protocol.digest, row.run.data.digest, bool(row.run.failed)) for row in group.rows}
        assert len(facts) == 1
        column = group.sort("psnr")
        values = [group.cell(row, column).value or 0.0 for row in group.rows] if column else []
        assert values == sorted(values, reverse=True)


def test_models_are_ranked_by_the_number_that_is_asked_for() -> None:
    (group,) = group_runs(
        [
            measured("a", {"psnr": 20.0, "rfid": 1.0}),
            measured("b", {"psnr": 30.0, "rfid": 9.0}),
            measured("c", {"psnr": 25.0, "rfid": number("rfid", None, why="no weights")}),
            measured("d", {"psnr": number("psnr", 99.0, samples=7), "rfid": 5.0}),
        ]
    )
    for name, expected in ((None, "bcad"), ("psnr", "bcad"), ("rfid", "adbc"), ("rfid[titok]", "adbc"), ("x", "bcad")):
        group.sort(name)
        assert "".join(models(group)) == expected, name


def test_the_more_samples_count_where_models_disagree() -> None:
    few = measured("few", {"psnr": number("psnr", 40.0, samples=99)})
    for runs in ([few, ONE], [ONE, few]):
        (group,) = group_runs(runs)
        group.sort("psnr")
        cells = [group.cell(row, group.columns[0]) for row in group.rows]
        assert models(group) == ["one", "few"] and [cell.ranked for cell in cells] == [True, False]
        assert cells[1].note == "of 99 of 100 samples" and not cells[0].best, "one alone is not the best of anything"


def test_a_model_measured_twice_is_one_row() -> None:
    old = measured("one", {"psnr": 20.0}, created="2026-01-01T00:00:00+00:00")
    new = measured("renamed", {"psnr": 20.5}, weights="one", created="2026-02-01T00:00:00+00:00")
    (group,) = group_runs([new, old])
    (row,) = group.rows
    cell = group.cell(row, group.columns[0])
    assert (row.model, cell.text, cell.spread, len(row.repeats)) == ("renamed", "20.50", 0.5, 1)


def test_rows_say_what_makes_them_differ() -> None:
    half = measured("one", {"psnr": 19.0}, dtype="bfloat16")
    trained = measured("one", {"psnr": 25.0}, weights="more training")
    (group,) = group_runs([ONE, half, measured("two", {"psnr": 1.0})])
    assert models(group) == ["one (dtype float32)", "one (dtype bfloat16)", "two"]
    (group,) = group_runs([ONE, trained])
    assert models(group) == [f"one (weights {ONE.weights[:8]})", f"one (weights {trained.weights[:8]})"]


def test_numbers_of_other_networks_have_columns_of_their_own() -> None:
    a = measured("a", {"rfid": number("rfid", 3.0, sha256="aa" * 32)})
    b = measured("b", {"rfid": number("rfid", 2.0, sha256="bb" * 32)})
    (group,) = group_runs([a, b])
    assert len(group.columns) == 2 and len({column.title for column in group.columns}) == 2
    cells = [[group.cell(row, column).text for column in group.columns] for row in group.rows]
    assert cells == [["3.000", ""], ["", "2.000"]]
    assert not any(group.cell(row, column).best for row in group.rows for column in group.columns)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_results(tmp_path / "all" / "mine", Results([ONE, measured("two", {"psnr": 30.0})]))
    write_results(tmp_path / "all" / "yours" / "deep", Results([measured("three", {"psnr": 25.0})]))
    return tmp_path / "all"


def test_nested_folders_are_found_once(results: Path) -> None:
    files = find_results([results, results / "mine", results / "mine" / "results.json"])
    assert [file.parent.name for file in files] == ["mine", "deep"]
    runs, unread = collect(files)
    assert [item.model for item in runs] == ["one", "two", "three"] and unread == []


def test_the_command_writes_a_page_and_names_what_it_cannot_read(results: Path, tmp_path: Path) -> None:
    for name, text in (("broken", "{"), ("foreign", '{"a": 1}'), ("later", json.dumps({"format": 99, "runs": []}))):
        (results / name).mkdir()
        (results / name / "results.json").write_text(text)
    for suffix, cell in (("md", "| 1 | two | all |"), ("html", '<td title="two, a tokenizer')):
        output = tmp_path / f"board.{suffix}"
        found = CliRunner().invoke(app, ["report", str(results), "-o", str(output), "--sort", "psnr"])
        assert found.exit_code == 1, found.output
        page = output.read_text()
        assert cell in page and page.index("two") < page.index("three")
        for name in ("broken", "foreign", "later"):
            assert f"{name}/results.json" in page and f"{name}/results.json" in found.output
        assert "expected results of format 1, got 99" in page
    good = CliRunner().invoke(app, ["report", str(results / "mine"), "-o", str(tmp_path / "new" / "board.html")])
    assert good.exit_code == 0, good.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "-o", "a.md"], "no results at absent"),
        ([".", "-o", "a.md"], "no results.json below ."),
        (["all", "-o", "a.pdf"], "-o names an .html or .md file"),
        (["all", "-o", "a.md", "--sort", "rfid"], "no result has 'rfid', there are psnr"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty if arguments[0] == "." else tmp_path)
    found = CliRunner().invoke(app, ["report", *arguments])
    assert found.exit_code == 2 and message in found.output, found.output
    assert not Path("a.md").exists()


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (("settings", 0, "numbers", 0, "value"), "20.0", "run.settings.numbers.value"),
        (("settings", 0, "numbers", 0, "value"), float("nan"), "run.settings.numbers.value"),
        (("settings", 0, "numbers", 0, "digits"), None, "run.settings.numbers.digits"),
        (("settings", 0, "rate", "bits"), [1], "run.settings.rate"),
        (("data", "items"), True, "run.data.items"),
        (("originals",), "abc", "run.originals"),
        (("protocol", "view"), [], "run.protocol.view"),
    ],
)
def test_results_of_other_types_are_refused(tmp_path: Path, path: tuple[Any, ...], value: Any, name: str) -> None:
    file = write_results(tmp_path, Results([ONE]))
    assert collect([file])[1] == []
    content = json.loads(file.read_text())
    place = content["runs"][0]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    runs, (unread,) = collect([file])
    assert runs == [] and f"{name} holds something else" in unread.why


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="none of 1 files is readable"):
        write_leaderboard([tmp_path], tmp_path / "board.md")
