"""The `zoo` command. Commands import what they need when they run: `zoo --help` and `zoo list` load no torch."""

from __future__ import annotations

from typing import Annotated

import typer

import zoo
from zoo.cli import (
    convert,
    curve,
    doctor,
    evaluate,
    export,
    generate,
    gfid,
    models,
    prepare,
    probe,
    reconstruct,
    report,
    train,
    verify,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="zoo",
    help="Tokenizers for images, audio and shapes: load, train, measure, and turn files into tokens and back.",
    epilog="Exit codes: 0 all done, 1 some items failed, 2 the command cannot run as given.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(models.list_command)
app.command("info")(models.info)
app.command("tokenize")(convert.tokenize)
app.command("detokenize")(convert.detokenize)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("train")(train.train)
app.command("prepare-meshes")(prepare.prepare_meshes)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("curve")(curve.curve)
app.command("probe")(probe.probe)
app.command("gfid")(gfid.gfid)
app.command("export")(export.export)
app.command("generate")(generate.generate)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokenizer-zoo {zoo.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Tokenizers for images, audio and shapes: load, train, measure, and turn files into tokens and back."""


def main() -> None:
    """Entry point of the `zoo` command."""
    app()
