"""Where a non-finite value came from, in one sentence."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from gradwatch.report.text import clean

if TYPE_CHECKING:
    from gradwatch.records import Incident, Origin, SourceLine

_VALUES = {"finite->nan": "NaN", "inf->nan": "NaN", "finite->inf": "infinity"}
_PLACES = {
    "batch": "the batch",
    "loss": "the loss",
    "gradient": "a gradient",
    "parameter": "a weight",
    "buffer": "a buffer",
    "optimizer": "the optimizer's state",
}


def what_was_seen(incident: Incident) -> str:
    """Return ``a NaN in the loss``: what was born, and where it came to light."""
    born = _VALUES.get(incident.origin.transition or "")
    place = _PLACES.get(incident.first_seen, clean(incident.first_seen))
    article = {"NaN": "a NaN", "infinity": "an infinity"}.get(born or "", "a non-finite value")
    return f"{article} in {place}"


def origin(incident: Incident) -> str:
    """Return who made the value, without a full stop: operation, module and source line, as far as they are known."""
    where = incident.origin
    if where.cause == "dynamics":
        return "the run had been growing for steps, and no single operation is to blame"
    tensor = f" {clean(where.tensor)}" if where.tensor else ""
    if where.phase == "input":
        return f"it came with the data{tensor and ','}{tensor}"
    if where.phase in ("parameter", "buffer"):
        kind = "weight" if where.phase == "parameter" else "buffer"
        return f"the {kind}{tensor} held it before the step"
    if where.phase == "optimizer":
        return f"the optimizer's step made it{' in' if tensor else ''}{tensor}"
    if where.op is None and where.module is None:
        return "no operation could be named, as the step did not show it when it was run again"
    return _operation(where)


def _operation(where: Origin) -> str:
    direction = {"forward": " in the forward pass", "backward": " in the backward pass"}.get(where.phase, "")
    made = clean(where.op) if where.op else "an operation"
    module = f" of {module_of(where)}" if where.module is not None else ""
    return f"{made}{module} made it{direction}{source_of(where.source)}"


def module_of(where: Origin) -> str:
    """Return the module by path and class; the LightningModule itself has no path."""
    kind = clean(where.module_type) if where.module_type else ""
    if not where.module:
        return kind or "the model itself"
    return f"{clean(where.module)} ({kind})" if kind else clean(where.module)


def source_of(source: SourceLine | None) -> str:
    """Return ``, model.py:42``, or nothing."""
    return "" if source is None else f", {clean(PurePath(source.file).name)}:{source.line}"
