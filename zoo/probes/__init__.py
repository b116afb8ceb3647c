"""What tokens are good for besides reconstruction: classes told from frozen tokenizers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.probes.labels import Labelled, open_labelled
    from zoo.probes.linear import Logistic, fit_logistic
    from zoo.probes.neighbours import nearest_classes
    from zoo.probes.run import Probe, probe
    from zoo.probes.scores import score, wilson_interval

__all__ = [
    "Labelled",
    "Logistic",
    "Probe",
    "fit_logistic",
    "nearest_classes",
    "open_labelled",
    "probe",
    "score",
    "wilson_interval",
]

HOMES = {
    **dict.fromkeys(("Labelled", "open_labelled"), "zoo.probes.labels"),
    **dict.fromkeys(("Logistic", "fit_logistic"), "zoo.probes.linear"),
    "nearest_classes": "zoo.probes.neighbours",
    **dict.fromkeys(("Probe", "probe"), "zoo.probes.run"),
    **dict.fromkeys(("score", "wilson_interval"), "zoo.probes.scores"),
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if module := HOMES.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
