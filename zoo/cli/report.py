"""`zoo report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import complain

__all__ = ["report"]


def report(
    results: Annotated[
        list[Path], typer.Argument(help="Folders with results.json (searched recursively), or such files.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="An .html or .md file.")],
    sort: Annotated[
        str | None,
        typer.Option("--sort", help="Number that models are ranked by: rfid, psnr, ...; else the first of each table."),
    ] = None,
) -> None:
    """Merge many results of `zoo evaluate` into one leaderboard.

    Models are ranked only against those with the same protocol, data, reference and number of samples; the page says
    why others are apart. Files that are no results are named on the page, and the exit code is 1.

    \b
    Examples:
      zoo report measured/ -o leaderboard.html
      zoo report measured/ colleague/measured/ -o leaderboard.md --sort rfid
    """
    with complain():
        from zoo.evaluation.report.leaderboard import write_leaderboard

        unread = write_leaderboard(results, output, sort=sort)
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    for item in unread:
        console.print(f"not read: {item.path}: {item.why}", highlight=False, markup=False)
    console.print(f"wrote {output}", highlight=False, markup=False)
    if unread:
        raise typer.Exit(1)
