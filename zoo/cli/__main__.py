"""`python -m zoo.cli`, for environments without the `zoo` script."""

from zoo.cli import main

main()
