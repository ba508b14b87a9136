"""From the argument ``detectors`` to detectors: which rules are in force, with which thresholds, and the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from gradwatch.detectors.alarms import own_detector
from gradwatch.detectors.catalogue.families import closest
from gradwatch.detectors.default import DETECTORS
from gradwatch.detectors.detector import Detector

PAIR = 2


def select(argument: Any) -> tuple[Detector, ...]:
    """Return the detectors that ``argument`` asks for, in the catalogue's order, the user's own after them.

    Args:
        argument: ``"default"`` for all, or a list of codes (``"loss-spike"``), of ``{code: {threshold: number}}`` or
            ``{code: False}`` to change or drop one, of import paths (``"package.module:name"``) and of pairs
            ``(init, update)``. ``"default"`` in the list stands for all rules.

    Raises:
        TypeError, ValueError: an entry is none of these; the message names what is accepted.
    """
    chosen: dict[str, Detector] = {}
    for entry in [argument] if isinstance(argument, str) else argument:
        if entry == "default":
            chosen = {**{detector.rule.code: detector for detector in DETECTORS}, **chosen}
        elif isinstance(entry, Mapping):
            for code, change in entry.items():
                _change(chosen, code, change)
        else:
            detector = _named(entry) if isinstance(entry, str) else _made(entry)
            chosen[detector.rule.code] = detector
    return tuple(chosen.values())


def _change(chosen: dict[str, Detector], code: str, change: Any) -> None:
    """Drop a rule, or put it in force with other thresholds."""
    detector = chosen.get(code) or _named(code)
    if change is False or change is None:
        chosen.pop(code, None)
    elif change is True:
        chosen[code] = detector
    elif isinstance(change, Mapping):
        chosen[code] = _with_limits(detector, change)
    else:
        raise TypeError(f"{{{code!r}: {change!r}}}: expected {{threshold: number}}, or False to drop the rule")


def _with_limits(detector: Detector, change: Mapping[Any, Any]) -> Detector:
    code, limits = detector.rule.code, detector.limits
    for name, value in change.items():
        if name not in limits:
            raise ValueError(f"{code} has no threshold {name!r}; it has {', '.join(limits)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{code}: {name} must be a number of at least 0, not {value!r}")
    return replace(detector, limits={**limits, **change})


def _named(name: str) -> Detector:
    """Return the detector of a code, or what an import path leads to."""
    for detector in DETECTORS:
        if detector.rule.code == name:
            return detector
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    if not module:
        close = closest(name)
        meant = f" (did you mean {close!r}?)" if close else ""
        raise ValueError(f"{name!r} is no rule{meant}; `gradwatch rules` lists them")
    try:
        return _made(getattr(import_module(module), attribute), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported: {error}") from error


def _made(entry: Any, name: str | None = None) -> Detector:
    """Return the detector that a pair of functions makes; its code is the name of the second one."""
    if isinstance(entry, Detector):
        return entry
    if isinstance(entry, Sequence) and len(entry) == PAIR and all(isinstance(part, Callable) for part in entry):  # type: ignore[arg-type]
        init, update = entry
        code = name or str(getattr(update, "__name__", type(update).__name__))
        return own_detector(code.strip("_").replace("_", "-"), init, update)
    raise TypeError(
        f"{entry!r} is no detector: expected a rule's code, {{code: thresholds}}, {{code: False}}, an import path"
        " or a pair of functions (init, update)"
    )
