"""Results as pages: the report of a folder of results, and the leaderboard of many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.evaluation.results import Results

__all__ = ["write_report"]


def write_report(results: Results, folder: str | Path) -> list[Path]:
    """Write report.md and report.html into the folder that holds the results and their samples; returns both paths."""
    from zoo.evaluation.report.pages import report_pages

    return report_pages(results, Path(folder))
