"""Pages of results, as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.evaluation.measures.codes import MEASURES as CODES
from zoo.evaluation.report.charts import Chart, charts, heading
from zoo.evaluation.report.grids import Grid, Shelf, grids, sheet
from zoo.evaluation.report.groups import Apart, Cell, Column, Group, Row, apart, group_runs, share
from zoo.store.files import replacing

if TYPE_CHECKING:
    from jinja2 import Environment

    from zoo.evaluation.results import Results, Run

__all__ = ["Page", "Section", "Unread", "page_of", "render", "report_pages"]

PICTURES = "report_files"
MARKS = re.compile(r"([\\`*\[\]|#~]|(?<![^\W_])_|_(?![^\W_]))")


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that is in no table, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Table:
    """Some columns of a group.

    Attributes:
        title: "" where it is the only one.
        lines: rows with their cells.
    """

    title: str
    columns: list[Column]
    lines: list[tuple[Row, list[Cell]]]

    @property
    def headings(self) -> list[str]:
        """Of the columns."""
        return [heading(column) for column in self.columns]


@dataclass(slots=True)
class Section:
    """One group on a page.

    Attributes:
        name: of its anchor.
        sorted: the column that the rows are ranked by; None where they stand as they were measured.
        charts: against the rate.
        notes: of the protocol.
        grids: samples.
        pictures: for Markdown, files with the charts and the samples, relative to the page.
    """

    name: str
    group: Group
    sorted: Column | None
    charts: list[Chart]
    notes: tuple[str, ...]
    grids: list[Grid] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    @property
    def run(self) -> Run:
        """The group's first."""
        return self.group.run

    @property
    def lines(self) -> list[tuple[Row, list[Cell]]]:
        """Rows with their cells."""
        return [(row, [self.group.cell(row, column) for column in self.group.columns]) for row in self.group.rows]

    @property
    def tables(self) -> list[Table]:
        """What reconstructions are worth and what codes are like, apart."""
        codes = {measure.name for measure in CODES}
        parts: dict[str, list[Column]] = {"Quality": [], "Codes": []}
        for column in self.group.columns:
            parts["Codes" if column.measure in codes else "Quality"].append(column)
        wanted = {title: columns for title, columns in parts.items() if columns}
        return [
            Table(
                title if len(wanted) > 1 else "",
                columns,
                [(row, [self.group.cell(row, column) for column in columns]) for row in self.group.rows],
            )
            for title, columns in wanted.items()
        ]

    @property
    def remarks(self) -> list[str]:
        """What must be said of single numbers: why they are missing or not ranked, and how far repeats are apart."""
        found: dict[str, list[str]] = {}
        for row, cells in self.lines:
            for column, cell in zip(self.group.columns, cells, strict=True):
                if cell.note and cell.note != "not measured":
                    found.setdefault(f"{column.title}: {cell.note}", []).append(row.name)
        remarks = [f"{text} ({', '.join(who)})" for text, who in found.items()]
        for row, cells in self.lines:
            if row.repeats:
                pairs = zip(self.group.columns, cells, strict=True)
                spreads = [f"{column.title} {cell.spread:.2g}" for column, cell in pairs if cell.spread is not None]
                told = f"; they differ by at most {', '.join(spreads)}" if spreads else ""
                remarks.append(f"{row.name}: the newest of {len(row.repeats) + 1} runs{told}")
        return remarks

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How numbers were made: those of their details that are the same in all rows."""
        told: dict[str, list[str]] = {}
        for column in self.group.columns:
            found = [number.details for row in self.group.rows if (number := self.group.number(row, column))]
            same = {name: value for name, value in found[0].items() if all(item.get(name) == value for item in found)}
            if facts := _pairs(same):
                told.setdefault(facts, []).append(column.key)
        return [(", ".join(keys), facts) for facts, keys in told.items()]

    @property
    def view(self) -> dict[str, Any]:
        """How items were prepared, as far as it is the same for all rows."""
        views = [run.protocol.view for run in self.runs]
        return {name: value for name, value in views[0].items() if all(view.get(name) == value for view in views)}

    def own(self, run: Run) -> dict[str, Any]:
        """What of that is another for each row, such as the size of a tokenizer."""
        return {name: value for name, value in run.protocol.view.items() if name not in self.view}

    @property
    def speeds(self) -> bool:
        """Whether any speed was measured."""
        return any(row.run.encode or row.result.decode for row in self.group.rows)

    @property
    def rate_unit(self) -> str:
        """Of the rates of all rows."""
        return next((row.result.rate.unit for row in self.group.rows if row.result.rate is not None), "")

    @property
    def unit(self) -> str:
        """Of the items, in the plural."""
        return {"image": "images", "audio": "sounds", "shape": "shapes"}[self.run.modality]

    def place(self, row: Row) -> str:
        """Rank of a row; "" for one that is not compared."""
        if self.sorted is None or not self.group.cell(row, self.sorted).ranked:
            return ""
        return str(self.group.rows.index(row) + 1)

    @property
    def runs(self) -> list[Run]:
        """Those that are in the rows, each once."""
        return list({id(row.run): row.run for row in self.group.rows}.values())


@dataclass(slots=True)
class Page:
    """What a page says.

    Attributes:
        leaderboard: whether rows are ranked, and nothing is told of single runs.
        apart: groups that are not compared.
        unread: files that are in no table.
        linked: whether samples lie beside the page because they are too large for it.
    """

    title: str
    leaderboard: bool
    sections: list[Section]
    apart: list[Apart]
    unread: list[Unread] = field(default_factory=list)
    linked: bool = False


def report_pages(results: Results, folder: Path) -> list[Path]:
    """Write report.md and report.html into the folder of the results."""
    shelf = Shelf(folder)
    page = page_of(results.runs, "Evaluation")
    for section in page.sections:
        section.grids = grids(section.group, shelf)
    page.linked = shelf.linked
    _write_pictures(page, folder)
    paths = [folder / f"report.{kind}" for kind in ("md", "html")]
    for path in paths:
        _write(path, render(page, path.suffix))
    return paths


def page_of(
    runs: Iterable[Run],
    title: str,
    *,
    leaderboard: bool = False,
    sort: str | None = None,
    unread: Sequence[Unread] = (),
) -> Page:
    """A page of runs.

    Args:
        leaderboard: rank rows.
        sort: number that they are ranked by; see `Group.sort`.

    Raises:
        ValueError: no group has the number to sort by.
    """
    groups = group_runs(runs)
    if sort is not None and not any(
        column.means(sort) and column.better for group in groups for column in group.columns
    ):
        known = dict.fromkeys(column.name for group in groups for column in group.columns if column.better)
        raise ValueError(f"nothing to sort by: no result has {sort!r}, there are {', '.join(known)}")
    sections = []
    for number, group in enumerate(groups, 1):
        ranked = group.sort(sort) if leaderboard and not group.failed else None
        sections.append(Section(f"group-{number}", group, ranked, charts(group), _notes(group.run)))
    return Page(title, leaderboard, sections, apart(groups), list(unread))


def render(page: Page, suffix: str) -> str:
    """The text of a page, for ".md" or ".html".

    Raises:
        ValueError: another suffix.
    """
    if suffix not in (".md", ".html"):
        raise ValueError(f"pages are .html or .md, got {suffix or 'no suffix'}")
    return _templates(suffix).get_template(f"page{suffix}.j2").render(page=page)


def _write_pictures(page: Page, folder: Path) -> None:
    """Charts and samples as files, for Markdown; those of an older report go."""
    from zoo.data.images import write_image

    room = folder / PICTURES
    for old in room.glob("group-*"):
        old.unlink()
    for section in page.sections:
        for number, chart in enumerate(section.charts, 1):
            name = f"{section.name}-chart-{number}.svg"
            _write(room / name, _templates(".html").get_template("chart.svg.j2").render(chart=chart))
            section.pictures.append(f"{PICTURES}/{name}")
        if (picture := sheet(section.grids)) is not None:
            write_image(room / f"{section.name}-samples.png", picture)
            section.pictures.append(f"{PICTURES}/{section.name}-samples.png")


def _write(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _notes(run: Run) -> tuple[str, ...]:
    """Of the protocol, if it is one of the package and has not changed."""
    from zoo.evaluation.protocols import protocol

    try:
        found = protocol(run.protocol.name)
    except (KeyError, ValueError, OSError):
        return ()
    return found.notes if found.digest == run.protocol.digest else ()


@cache
def _templates(suffix: str) -> Environment:
    """Templates in which every text is escaped, for HTML or for Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def plain(value: Any) -> Any:
        return value if isinstance(value, Markup) or not isinstance(value, str) else Markup(escape_markdown(value))

    found = Environment(
        loader=PackageLoader("zoo.evaluation.report"),
        autoescape=suffix == ".html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=None if suffix == ".html" else plain,
    )
    found.filters["pairs"] = _pairs
    found.filters["share"] = share
    found.filters["day"] = lambda text: str(text)[:19].replace("T", " ")
    return found


def escape_markdown(text: str) -> str:
    """A text that means itself in a line of Markdown: no markup, no HTML, no end of a table's cell."""
    return MARKS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _pairs(facts: Any) -> str:
    """Plain data in one line."""
    if isinstance(facts, Mapping):
        parts = [f"{name}: {_pairs(value)}" for name, value in facts.items() if value not in (None, "", {}, [])]
        return "; ".join(parts) if any(isinstance(value, Mapping) for value in facts.values()) else ", ".join(parts)
    return ", ".join(map(_pairs, facts)) if isinstance(facts, (list, tuple)) else str(facts)
