"""What gradwatch writes into TensorBoard's event files: names, layout of the rows, metadata. Standard library only.

The sink writes it and the plugin reads it; whatever both must know stands here, once.

All series belong to the plugin ``numerical_health`` and are tensors. A *row* is one tensor; its step is the loggers'
x-axis (``log_step``) of the last record in it. A run of any length has at most a few thousand rows: each stands for a
window of records, and the window doubles every ``ROWS_PER_WINDOW`` rows. No value is lost by that, because each entry
is the most alarming one of its window.

============  ==========================  =====================================================================
kind          tensor                      entries
============  ==========================  =====================================================================
``layers``    float32 ``[len(layers)]``   one metric of each layer of one optimizer: the largest value of the
                                          window; NaN above all, then infinity; ``UNKNOWN`` where no record has one
``curves``    float64 ``[len(CURVES)]``   one optimizer's loss, norms, clipping, ...: see ``CURVES``
``events``    string ``[n]``              JSON objects as in ``events.jsonl``: all findings, incidents, gradient
                                          checks and ``run_end`` of one log step, each with ``log_step`` added, and
                                          incidents with ``folder``
``start``     string ``[1]``              the ``run_start`` object (its parameter table is left out if large) with
                                          ``log_step``; one more after each resume
============  ==========================  =====================================================================

The metadata of a series (``plugin_data.content``) is a JSON object, see ``content`` and ``read_content``. Readers go by
it and never by the tag, which is only a unique name: tags of rows end in a digest of what their entries mean, so that
a model whose layers change in mid-run (a backbone is unfrozen, a run is resumed) begins another series.

Where a step was written twice (two rows of one series at one step, or steps that run backwards after a resume), the
last one written holds: it replaces the earlier ones at this and at all later steps.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard, get_args

from gradwatch.serialization.codec import SchemaError

if TYPE_CHECKING:
    from collections.abc import Sequence

PLUGIN_NAME = "numerical_health"
VERSION = 1
ROWS_PER_WINDOW = 180

# "Nobody knows": no gradient, no loss, no scaler. The lowest number that float32 holds, because it loses against every
# known one in a maximum, and because NaN and the infinities are values that were measured.
UNKNOWN = -3.4028234663852886e38

Metric = Literal["grad_norm", "weight_norm", "update_ratio", "nonfinite"]
METRICS: tuple[Metric, ...] = get_args(Metric)

Kind = Literal["layers", "curves", "events", "start"]


class Curve(NamedTuple):
    """One entry of a ``curves`` row: how the records of a window become one number."""

    name: str
    pooled: str
    meaning: str


CURVES = (
    Curve("first", "first", "log step of the first record in the row"),
    Curve("records", "sum", "records in the row"),
    Curve("steps", "sum", "optimizer steps that these records stand for: all since the record before them"),
    Curve("step", "last", "the Trainer's global_step of the last record"),
    Curve("loss", "mean", "loss, of the records that have a finite one"),
    Curve("loss_max", "max", "largest loss of any step; NaN above all, then infinity"),
    Curve("grad_norm", "mean", "total gradient norm before clipping, of the records that have a finite one"),
    Curve("grad_norm_max", "max", "largest total norm of any step; NaN above all, then infinity"),
    Curve("grad_norm_max_step", "of the maximum", "the Trainer's global_step at which grad_norm_max was seen"),
    Curve("clip_coefficient", "min", "what gradients were multiplied by; 1 when nothing was clipped"),
    Curve("clipped_steps", "sum", "optimizer steps that were clipped"),
    Curve("max_norm", "last", "limit of the clip rule; unknown without one"),
    Curve("lr", "last", "learning rate of the first parameter group"),
    Curve("loss_scale", "min", "scale of the GradScaler; unknown without one"),
    Curve("nonfinite_steps", "sum", "optimizer steps on which something was not finite"),
    Curve("skipped_steps", "sum", "optimizer steps whose update was dropped"),
    Curve("row", "last", "number of this row, counted from 0 at the start or resume of the run"),
)
CURVE_NAMES = tuple(curve.name for curve in CURVES)


class Series(NamedTuple):
    """What the rows of one tag are.

    ``optimizer``, ``metric`` and ``names`` are those of ``layers`` and ``curves``: ``names`` says what each entry of a
    row is, in order.
    """

    kind: Kind
    optimizer: int = 0
    metric: Metric | None = None
    names: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """The tag under which it is written."""
        if self.kind in ("events", "start"):
            return f"{PLUGIN_NAME}/{self.kind}"
        digest = zlib.crc32(json.dumps(self.names).encode())
        return f"{PLUGIN_NAME}/{self.metric or self.kind}/{self.optimizer}/{digest:08x}"


EVENTS = Series("events")
START = Series("start")


def layer_series(metric: Metric, optimizer: int, layers: Sequence[str]) -> Series:
    """Return the series of one metric of one optimizer's layers, in model order."""
    return Series("layers", optimizer, metric, tuple(layers))


def curve_series(optimizer: int) -> Series:
    """Return the series of one optimizer's curves."""
    return Series("curves", optimizer, None, CURVE_NAMES)


def content(series: Series) -> bytes:
    """Return the metadata of a series: ASCII JSON."""
    described: dict[str, Any] = {"version": VERSION, "kind": series.kind}
    if series.kind in ("layers", "curves"):
        described["optimizer"] = series.optimizer
        described["layers" if series.kind == "layers" else "columns"] = list(series.names)
    if series.metric is not None:
        described["metric"] = series.metric
    return json.dumps(described).encode("ascii")


def read_content(data: bytes) -> Series:
    """Return the series that metadata describe.

    Raises:
        SchemaError: they are broken, or those of a later version.
    """
    try:
        described = json.loads(data)
    except (ValueError, RecursionError):
        raise SchemaError("the metadata of its rows cannot be read") from None
    version = described.get("version") if isinstance(described, dict) else None
    if not _is_number(version) or version < 1:
        raise SchemaError("the metadata of its rows cannot be read")
    if version > VERSION:
        raise SchemaError(f"rows of version {version} were written by a newer gradwatch than this one: upgrade it")
    return _series(described)


def _series(described: dict[str, Any]) -> Series:
    kind: Any = described.get("kind")
    metric, optimizer = described.get("metric"), described.get("optimizer", 0)
    names = described.get("layers" if kind == "layers" else "columns", [])
    if (
        kind in get_args(Kind)
        and (kind != "layers" or metric in METRICS)
        and (_is_number(optimizer) and optimizer >= 0)
        and (isinstance(names, list) and all(isinstance(name, str) for name in names))
    ):
        return Series(kind, optimizer, metric if kind == "layers" else None, tuple(names))
    raise SchemaError("the metadata of its rows cannot be read")


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
