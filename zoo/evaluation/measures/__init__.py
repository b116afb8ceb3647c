"""Every measure by name; torchmetrics is imported when one is built."""

from __future__ import annotations

from difflib import get_close_matches

from zoo.evaluation.measures import codes, images, shapes, sounds
from zoo.evaluation.measures.base import Context, Measure, Number

__all__ = ["MEASURES", "Context", "Measure", "Number", "measure"]

MEASURES: dict[str, Measure] = {item.name: item for room in (images, sounds, shapes, codes) for item in room.MEASURES}


def measure(name: str) -> Measure:
    """The measure of a name.

    Raises:
        KeyError: there is none; the closest names are suggested.
    """
    if name not in MEASURES:
        closest = get_close_matches(name, MEASURES, n=3, cutoff=0.5)
        hint = f"closest: {', '.join(closest)}" if closest else f"there are {', '.join(sorted(MEASURES))}"
        raise KeyError(f"no measure {name!r}; {hint}")
    return MEASURES[name]
