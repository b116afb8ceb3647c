"""The report of a folder: what stands in its tables, that it needs nothing else, and that no text of it runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation.make_results import number, run, setting

from zoo.data.images import fit, read_image, write_image
from zoo.evaluation.report import write_report
from zoo.evaluation.report.charts import charts
from zoo.evaluation.report.grids import Shelf, grids
from zoo.evaluation.report.groups import Group, group_runs
from zoo.evaluation.report.pages import escape_markdown
from zoo.evaluation.results import Results, Run

ASSETS = Path(__file__).parents[1] / "assets"
EVIL = "<script>alert(1)</script> |x `c` [a](javascript:b) *b* \"q\" 'r'"


class Reader(HTMLParser):
    """Tags with their attributes, and the text of tables' rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def flexible(**options: Any) -> Run:
    counts = ((8, 18.0), (32, 20.0), (128, 22.0))
    settings = [setting({"psnr": psnr, "rfid": 90 - psnr}, tokens=count, bits=12.0 * count) for count, psnr in counts]
    return run("onedpiece", settings, **options)


def written(folder: Path, *runs: Run) -> tuple[Reader, str, str]:
    markdown, page = write_report(Results(list(runs)), folder)
    assert (markdown.name, page.name) == ("report.md", "report.html")
    text = page.read_text()
    return Reader(text), text, markdown.read_text()


def test_a_table_has_rows_for_settings_and_the_best_in_bold(tmp_path: Path) -> None:
    missing = number("rfid", None, why="no weights; give --weights inception_fid=FILE")
    other = run("kl", [setting({"psnr": number("psnr", 30.0, samples=99), "rfid": missing}, bits=None)])
    page, text, markdown = written(tmp_path, flexible(), run("fsq", [setting({"psnr": 21.0, "rfid": 5.5})]), other)
    assert page.rows[0] == ["Model", "Kept", "Tokens", "Rate, bit/pixel", "PSNR, dB\u00a0↑", "rFID\u00a0↓"]
    assert page.rows[3] == ["onedpiece", "128 tokens", "128", "0.02344", "22.00", "68.000"]
    assert page.rows[4] == ["fsq", "all", "256", "0.04688", "21.00", "5.500"]
    assert page.rows[5] == ["kl", "all", "256", "–", "30.00*", "–"]
    assert re.findall("<strong>(.*?)</strong>", text) == ["22.00", "5.500"], "99 samples are not compared with 100"
    lines = markdown.splitlines()
    assert "| onedpiece | 128 tokens | 128 | 0.02344 | **22.00** | 68.000 |" in lines
    assert "| kl | all | 256 | – | 30.00\\* | – |" in lines
    assert "- PSNR: of 99 of 100 samples (kl)" in lines
    assert "- rFID: no weights; give --weights inception_fid=FILE (kl)" in lines
    assert "50,000 and do not compare" in markdown, "the published numbers are of another count"


def test_failed_items_are_named_and_their_run_is_compared_with_none(tmp_path: Path) -> None:
    broken = run("fsq", [setting({"psnr": 40.0})], failed=["n01/broken.jpg"])
    _, text, markdown = written(tmp_path, flexible(), broken)
    assert text.count("<section") == 3 and "1 item of 100 failed for fsq" in text
    assert "n01/broken.jpg: OSError, the picture breaks off" in markdown
    assert "22.00" in re.findall("<strong>(.*?)</strong>", text) and "40.00" not in re.findall(
        "<strong>(.*?)</strong>", text
    )


def test_charts_join_the_settings_of_a_model() -> None:
    (group,) = group_runs([flexible(), run("fsq", [setting({"psnr": 21.0, "rfid": 5.5}, bits=9000.0)])])
    psnr, rfid = charts(group)
    assert psnr.title == "PSNR, dB\u00a0↑" and psnr.across == "bits per pixel" and rfid.title.startswith("rFID")
    assert [(curve.name, len(curve.marks)) for curve in psnr.curves] == [("onedpiece", 3), ("fsq", 1)]
    xs, ys = ([getattr(mark, axis) for mark in psnr.curves[0].marks] for axis in "xy")
    assert xs == sorted(xs) and ys == sorted(ys, reverse=True) and psnr.curves[1].marks[0].x > xs[-1]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2), "equal ratios are equally far apart"
    assert psnr.curves[0].marks[0].title == "onedpiece, 8 tokens: 18.00 dB at 0.001465 bit/pixel"


def test_without_rates_there_are_no_charts() -> None:
    (group,) = group_runs([run("kl", [setting({"psnr": 21.0}, bits=None)]), run("one", [setting({"psnr": 20.0})])])
    assert charts(group) == []


def with_pictures(folder: Path) -> list[Run]:
    runs = []
    for model in ("fsq", "kl"):
        originals, samples = [], []
        for place, name in enumerate(("chelsea.jpg", "coffee.jpg")):
            picture, _ = fit(read_image(ASSETS / name), (64, 64))
            for kind, files in (("original", originals), ("whole", samples)):
                file = Path(f"samples/{model}/titok/{kind}/{place:04d}_{Path(name).stem}.png")
                write_image(folder / file, picture * (0.5 if kind == "whole" else 1))
                files.append(file.as_posix())
        runs.append(run(model, [setting({"psnr": 21.0}, samples=samples)], originals=originals))
    return runs


def test_samples_stand_beside_their_originals(tmp_path: Path) -> None:
    page, text, markdown = written(tmp_path, *with_pictures(tmp_path))
    pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 6 and all(source.startswith("data:image/png;base64,") for source in pictures)
    assert re.findall("<figcaption>(\\w+)", text) == ["original", "fsq", "kl"] * 2
    (name,) = re.findall(r"!\[.*?\]\((.*samples.png)\)", markdown)
    assert read_image(tmp_path / name).shape[2] > 3 * 320


def test_large_samples_are_linked(tmp_path: Path) -> None:
    (group,) = group_runs(with_pictures(tmp_path))
    shelf = Shelf(tmp_path, room=20_000)
    sources = [shown.picture for grid in grids(group, shelf) for shown in grid.shown]
    assert shelf.linked and sources[0].startswith("data:") and sources[-1] == "samples/kl/titok/whole/0001_coffee.png"


def test_files_outside_of_the_folder_are_not_shown(tmp_path: Path) -> None:
    write_image(tmp_path / "secret.png", torch.zeros(3, 8, 8))
    folder = tmp_path / "results"
    folder.mkdir()
    (tmp_path / "results" / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "absent.png"):
        (group,) = group_runs([run("fsq", [setting({"psnr": 1.0}, samples=[name])], originals=[name])])
        assert grids(group, Shelf(folder)) == []


def test_sounds_have_players_and_spectrograms(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    from zoo.data.audio import read_audio, write_audio

    sound = read_audio(ASSETS / "speech.flac")[:, :8000]
    for kind in ("original", "whole"):
        (tmp_path / kind).mkdir()
        write_audio(tmp_path / kind / "0.wav", sound, 16000)
    result = run("codec", [setting({"psnr": 1.0}, samples=["whole/0.wav"])], originals=["original/0.wav"])
    page, _, markdown = written(tmp_path, result)
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "audio"]
    assert len(sources) == 2 and all(source.startswith("data:audio/wav;base64,") for source in sources)
    assert page.count("img") == 2 and "samples.png" in markdown


def test_shapes_have_meshes(tmp_path: Path) -> None:
    for kind in ("original", "whole"):
        write_image(tmp_path / kind / "0.x.png", torch.zeros(3, 8, 8))
        (tmp_path / kind / "0.x.glb").write_bytes(b"glTF")
    result = run("vat", [setting({"psnr": 1.0}, samples=["whole/0.x.png"])], originals=["original/0.x.png"])
    page, _, _ = written(tmp_path, result)
    links = [attributes for tag, attributes in page.tags if tag == "a" and "download" in attributes]
    assert [link["download"] for link in links] == ["0.x.glb"] * 2
    assert links[0]["href"] == "data:model/gltf-binary;base64,Z2xURg=="


def test_no_text_of_results_becomes_markup(tmp_path: Path) -> None:
    evil = run(EVIL, [setting({"psnr": number("psnr", None, why=EVIL)})], data=EVIL, failed=[EVIL])
    plain, _, _ = written(tmp_path, run("fsq", [setting({"psnr": 1.0})], failed=["a"]), flexible())
    page, text, markdown = written(tmp_path, evil, flexible(data=EVIL))
    assert page.count("script") == plain.count("script") == 1
    assert "alert(1)</script>" not in text and "alert(1)</script>" not in markdown
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for line in markdown.splitlines():
        assert "[a](javascript" not in line and "`c`" not in line.replace("\\`", "")


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    page, text, _ = written(tmp_path, *with_pictures(tmp_path))
    addresses = [value or "" for _, found in page.tags for name, value in found.items() if name in ("src", "href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in text and "@import" not in text and "link" not in {tag for tag, _ in page.tags}
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_no_results_make_a_page(tmp_path: Path) -> None:
    _, text, markdown = written(tmp_path)
    assert "There are no results." in text and "There are no results." in markdown


def test_notes_are_those_of_the_protocol_if_it_is_unchanged(tmp_path: Path) -> None:
    from dataclasses import replace

    from zoo.evaluation.protocols import protocol

    found, one = protocol("vecset"), flexible()
    for digest, told in ((found.digest, True), ("0" * 64, False)):
        same = replace(one, protocol=replace(one.protocol, name="vecset", digest=digest))
        _, text, _ = written(tmp_path, same)
        assert ("twice that of protocols which average them" in text) == told


def test_groups_say_what_they_hold() -> None:
    groups: list[Group] = group_runs([flexible(), flexible(items=50, available=5000)])
    assert [group.title for group in groups] == ["titok on photos, 100 images", "titok on photos, 50 of 5,000 images"]


def test_markdown_means_itself() -> None:
    assert escape_markdown("a_b <i> | *x*\n# `y` _z_") == "a_b &lt;i&gt; \\| \\*x\\* \\# \\`y\\` \\_z\\_"


def test_a_number_of_fewer_items_says_so_even_alone() -> None:
    (group,) = group_runs([run("vat", [setting({"psnr": number("psnr", 20.0, samples=45)})])])
    (column,) = group.columns
    cell = group.cell(group.rows[0], column)
    assert cell.note == "of 45 of 100 samples" and cell.ranked
