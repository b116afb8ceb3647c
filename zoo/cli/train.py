"""`zoo train`."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import complain, stop

__all__ = ["train"]


def train(
    recipe: Annotated[str, typer.Argument(help="Name from `zoo list --recipes`, or with --generators.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value changes to the recipe, in Hydra's grammar.")
    ] = None,
) -> None:
    """Train a tokenizer or a generator from a recipe; the same command resumes an interrupted run.

    Works under torchrun and SLURM as it is. On finish or interrupt the run folder holds a model that `zoo.load` or
    `zoo generate` opens.

    \b
    Examples:
      zoo train titok_tiny trainer.max_steps=20
      zoo train onedpiece_s256 data.root=/data/imagenet/train trainer.devices=8
      zoo train titok_tiny data.root=photos quantizer=fsq run_dir=runs/titok_fsq
      zoo train gpt_tiny data.tokens=tokens
    """
    from zoo.store.cards import check_trains

    with complain():
        check_trains(recipe)
        if wrong := [item for item in overrides or [] if "=" not in item and not item.startswith("~")]:
            raise ValueError(f"overrides are key=value, got {', '.join(map(repr, wrong))}")
        from zoo.store.build import compose

        compose(recipe, overrides or [])
    try:
        from zoo.training import train as run
    except ImportError as error:
        stop(f"training needs {error.name}; install it with: pip install 'tokenizer-zoo[train]'")
    try:
        run(recipe, list(overrides or []))
    except (KeyError, ValueError) as error:
        stop(str(error.args[0]) if error.args else repr(error))
