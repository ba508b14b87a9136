"""The arguments of the monitor, checked at once, with errors that name argument, value and what is accepted."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gradwatch.detectors.selection import select

LayerScalars = bool | Literal["auto"]

ON_NONFINITE = ("raise", "stop", "skip", "warn")
ON_GRADIENT_MISMATCH = ("warn", "raise")
GRANULARITY = ("layer", "parameter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Constructor arguments of ``NumericalHealthMonitor`` and ``HealthMonitor``; see the README's table.

    Raises:
        TypeError: an argument has a type that is not accepted.
        ValueError: an argument has an accepted type and a value outside its range.
    """

    dirpath: str | os.PathLike[str] | None = None
    log_every_n_steps: int | None = None
    granularity: str = "layer"
    layer_scalars: LayerScalars = "auto"
    clip: float | str | None = "auto"
    on_nonfinite: str = "raise"
    max_skips: int = 10
    anomaly_steps: int = 100
    max_incident_bytes: int = 2 * 2**30
    gradient_check_every_n_steps: int | str | None = "auto"
    on_gradient_mismatch: str = "warn"
    graph_lint: bool = True
    detectors: Any = "default"

    def __post_init__(self) -> None:
        _check_dirpath(self.dirpath)
        _check_optional_count("log_every_n_steps", self.log_every_n_steps)
        _check_choice("granularity", self.granularity, GRANULARITY)
        _check_flag_or_auto("layer_scalars", self.layer_scalars)
        _check_clip(self.clip)
        _check_choice("on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        _check_count("max_skips", self.max_skips, at_least=0)
        _check_count("anomaly_steps", self.anomaly_steps, at_least=0)
        _check_count("max_incident_bytes", self.max_incident_bytes, at_least=0)
        if self.gradient_check_every_n_steps != "auto":
            _check_optional_count("gradient_check_every_n_steps", self.gradient_check_every_n_steps, also="'auto'")
        _check_choice("on_gradient_mismatch", self.on_gradient_mismatch, ON_GRADIENT_MISMATCH)
        _check_flag("graph_lint", self.graph_lint)
        _check_detectors(self.detectors)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON-ready values, for ``run_start``."""
        values = asdict(self) if self.detectors == "default" else {**_shallow(self), "detectors": repr(self.detectors)}
        return {**values, "dirpath": None if self.dirpath is None else os.fspath(self.dirpath)}


def _shallow(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in Settings.__slots__}


def _refuse(kind: type[Exception], name: str, value: object, accepted: str) -> Exception:
    return kind(f"NumericalHealthMonitor({name}={value!r}): {name} must be {accepted}.")


def _check_dirpath(value: object) -> None:
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise _refuse(TypeError, "dirpath", value, "a path or None")
    if value is not None and not os.fspath(value):
        raise _refuse(ValueError, "dirpath", value, "a path or None, not an empty string")


def _check_count(name: str, value: object, *, at_least: int, also: str = "") -> None:
    accepted = f"an integer of at least {at_least}{also}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse(TypeError, name, value, accepted)
    if value < at_least:
        raise _refuse(ValueError, name, value, accepted)


def _check_optional_count(name: str, value: object, also: str = "") -> None:
    if value is not None:
        _check_count(name, value, at_least=1, also=f", {also} or None" if also else " or None")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        kind = ValueError if isinstance(value, str) else TypeError
        raise _refuse(kind, name, value, "one of " + ", ".join(map(repr, choices)))


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _refuse(TypeError, name, value, "True or False")


def _check_flag_or_auto(name: str, value: object) -> None:
    # 1 == True would pass a membership test and then mean neither a count nor a flag to its reader.
    if not (isinstance(value, bool) or value == "auto"):
        kind = ValueError if isinstance(value, str) else TypeError
        raise _refuse(kind, name, value, "True, False or 'auto'")


def _check_clip(value: object) -> None:
    accepted = "'auto', a positive finite number (the largest L2 norm) or None (never clip)"
    if value is None or value == "auto":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refuse(ValueError if isinstance(value, str) else TypeError, "clip", value, accepted)
    if not (math.isfinite(value) and value > 0):
        raise _refuse(ValueError, "clip", value, accepted)


def _check_detectors(value: object) -> None:
    accepted = "'default' or a list of rules' codes, import paths, {code: thresholds} or pairs of functions"
    if not (isinstance(value, (list, tuple)) or value == "default"):
        kind = ValueError if isinstance(value, str) else TypeError
        raise _refuse(kind, "detectors", value, accepted)
    try:
        select(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"NumericalHealthMonitor(detectors=...): {error}") from error
