"""Measuring tokenizers: named protocols, exact runs over many processes, results that carry how they were made."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.evaluation.engine import evaluate
    from zoo.evaluation.protocols import Protocol, list_protocols, protocol
    from zoo.evaluation.results import Results, read_results, write_results

__all__ = ["Protocol", "Results", "evaluate", "list_protocols", "protocol", "read_results", "write_results"]

HOMES = {
    "evaluate": "zoo.evaluation.engine",
    **dict.fromkeys(("Protocol", "list_protocols", "protocol"), "zoo.evaluation.protocols"),
    **dict.fromkeys(("Results", "read_results", "write_results"), "zoo.evaluation.results"),
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: protocols are listed without torch."""
    if module := HOMES.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
