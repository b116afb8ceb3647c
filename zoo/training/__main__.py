"""python -m zoo.training RECIPE key=value ..."""

from __future__ import annotations

import sys

from zoo.training.run import train

USAGE = """usage: python -m zoo.training RECIPE [key=value ...]

Trains a recipe, or goes on with its last checkpoint, and writes the model to runs/RECIPE/model.
  python -m zoo.training fsq_f8_tiny data.root=photos trainer.max_steps=1000
  torchrun --nproc-per-node=8 -m zoo.training titok_b64 data.root=imagenet trainer.devices=8 trainer.strategy=ddp"""


def main(arguments: list[str]) -> int:
    """Exit code: 0 trained, 2 wrong arguments; 128 + signal after an interrupt."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    try:
        print(f"model: {train(arguments[0], arguments[1:])}")
    except (KeyError, ValueError) as error:
        print(error.args[0] if error.args else error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
