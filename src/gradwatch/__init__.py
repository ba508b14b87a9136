"""gradwatch: sees, names and survives numerical trouble while a network trains.

The public names load on first use, so that ``import gradwatch`` is quick and reading a finished run needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwatch.engine.monitor import HealthMonitor
    from gradwatch.errors import GradientMismatchError, NonFiniteError
    from gradwatch.integrations.lightning import NumericalHealthMonitor
    from gradwatch.probes.function import assert_gradients, check_gradients
    from gradwatch.records import GradientCheckReport
    from gradwatch.report.table import load_steps
    from gradwatch.serialization import load_events, load_incident, load_last_steps

__version__ = "0.1.0"

__all__ = [
    "GradientCheckReport",
    "GradientMismatchError",
    "HealthMonitor",
    "NonFiniteError",
    "NumericalHealthMonitor",
    "__version__",
    "assert_gradients",
    "check_gradients",
    "load_events",
    "load_incident",
    "load_last_steps",
    "load_steps",
]

_HOME = {
    "GradientCheckReport": "gradwatch.records",
    "GradientMismatchError": "gradwatch.errors",
    "HealthMonitor": "gradwatch.engine.monitor",
    "NonFiniteError": "gradwatch.errors",
    "NumericalHealthMonitor": "gradwatch.integrations.lightning",
    "assert_gradients": "gradwatch.probes.function",
    "check_gradients": "gradwatch.probes.function",
    "load_events": "gradwatch.serialization",
    "load_incident": "gradwatch.serialization",
    "load_last_steps": "gradwatch.serialization",
    "load_steps": "gradwatch.report.table",
}


if not TYPE_CHECKING:  # a type checker that saw it would let every misspelt name pass

    def __getattr__(name: str) -> object:
        """Import a public name from its home when it is first asked for."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value  # the next access costs a dictionary look-up
        return value


def __dir__() -> list[str]:
    """What the package offers, loaded or not."""
    return sorted(__all__)
