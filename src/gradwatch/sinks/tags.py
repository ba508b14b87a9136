"""The one table of tag names: what loggers, TensorBoard and ``trainer.callback_metrics`` call each number.

A float that is not finite is left out of its tag, because dashboards drop NaN and inf or draw them as gaps; the
integer ``health/nonfinite`` counts the optimizer steps on which something was not finite.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.records import LayerTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gradwatch.records import StepRecord

LAYER = "<layer>"


class Tag(NamedTuple):
    """One row of the table. ``per_optimizer``: optimizers above 0 add their number to the name."""

    name: str
    unit: str
    meaning: str
    per_optimizer: bool = False


LAYER_TAGS = (
    Tag(
        f"grad_norm/{LAYER}", "L2 norm", "gradient of the layer, unscaled and before clipping; absent without gradient"
    ),
    Tag(f"weight_norm/{LAYER}", "L2 norm", "weights of the layer, before the optimizer step"),
    Tag(
        f"update_ratio/{LAYER}",
        "ratio",
        "norm of the change that the optimizer step made, divided by the norm of the weights",
    ),
)

HEALTH_TAGS = (
    Tag(
        "health/grad_norm",
        "L2 norm",
        "all gradients of the optimizer together, unscaled and before clipping",
        per_optimizer=True,
    ),
    Tag(
        "health/grad_norm_max",
        "L2 norm",
        "the largest of any optimizer step since the record before, so that no spike falls between two log steps",
        per_optimizer=True,
    ),
    Tag(
        "health/grad_norm_clipped",
        "L2 norm",
        "the same after clipping; equal to `health/grad_norm` when nothing was clipped",
        per_optimizer=True,
    ),
    Tag(
        "health/clip_coefficient",
        "factor, 0 to 1",
        "what the gradients were multiplied by; 1 when nothing was clipped",
        per_optimizer=True,
    ),
    Tag(
        "health/clip_rate", "share, 0 to 1", "the share of optimizer steps so far that were clipped", per_optimizer=True
    ),
    Tag("health/nonfinite", "count of steps", "optimizer steps so far on which something was NaN or infinite"),
    Tag("health/skipped_steps", "count of steps", "optimizer steps so far whose update was dropped"),
    Tag(
        "health/loss_max",
        "as the loss",
        "the largest loss of any optimizer step since the record before",
        per_optimizer=True,
    ),
    Tag("health/loss_scale", "factor", "the scale of the GradScaler; absent without one"),
    Tag(
        "health/gradient_check_error",
        "relative error",
        "the largest |a-n|/max(|a|, |n|) of automatic (a) and numerical (n) derivative in the last gradient check, of"
        " what it could resolve",
    ),
)

TAGS = LAYER_TAGS + HEALTH_TAGS


def health_metrics(record: StepRecord, *, separator: str = "/") -> dict[str, float]:
    """Return the ``health`` scalars of a record by tag, with the logger's group separator."""
    largest = {"health/grad_norm_max": record.window.grad_norm_max, "health/loss_max": record.window.loss_max}
    return health_values(
        optimizer=record.optimizer,
        grad_norm=record.grad_norm,
        coefficient=record.clip.coefficient,
        clip_rate=record.clip.rate,
        nonfinite_steps=record.nonfinite_steps,
        skipped_steps=record.skipped_steps,
        loss_scale=record.loss_scale,
        separator=separator,
    ) | _named(largest, record.optimizer, separator)


def health_values(
    *,
    optimizer: int,
    grad_norm: float | None,
    coefficient: float,
    clip_rate: float,
    nonfinite_steps: int,
    skipped_steps: int,
    loss_scale: float | None,
    separator: str = "/",
) -> dict[str, float]:
    """Return the ``health`` scalars of one optimizer step by tag, but for the maxima over several steps.

    Those that are not finite are left out.
    """
    values: dict[str, float | None] = {
        "health/grad_norm": grad_norm,
        "health/grad_norm_clipped": None if grad_norm is None else grad_norm * coefficient,
        "health/clip_coefficient": coefficient,
        "health/clip_rate": clip_rate,
        "health/nonfinite": nonfinite_steps,
        "health/skipped_steps": skipped_steps,
        "health/loss_scale": loss_scale,
    }
    return _named(values, optimizer, separator)


def layer_metrics(record: StepRecord, *, separator: str = "/") -> dict[str, float]:
    """Return the per-layer scalars of a record by tag; a layer without gradient has no ``grad_norm``."""
    table = LayerTable.of(record.layers)
    columns = [list(table.columns[metric]) for metric in _LAYER_METRICS]
    for metric, column in zip(_LAYER_METRICS, columns, strict=True):
        for position in table.missing.get(metric, ()):
            column[position] = math.nan
    values = chain.from_iterable(zip(*columns, strict=True))
    return _finite(dict(zip(_layer_tags(table.names, separator), values, strict=True)))


@lru_cache(maxsize=8)
def _layer_tags(layers: tuple[str, ...], separator: str) -> list[str]:
    """Return the tags of all metrics of each layer; a file of events takes no lone surrogate."""
    names = [name.encode(errors="backslashreplace").decode() for name in layers]
    return [f"{metric}{separator}{name}" for name in names for metric in _LAYER_METRICS]


def gradient_check_metrics(errors: Iterable[float | None], *, separator: str = "/") -> dict[str, float]:
    """Return ``health/gradient_check_error``: the largest of the parameters' relative errors that are known."""
    known = [error for error in errors if error is not None and math.isfinite(error)]
    return {_separated("health/gradient_check_error", separator): max(known)} if known else {}


def _named(values: Mapping[str, float | None], optimizer: int, separator: str) -> dict[str, float]:
    suffix = f"/optimizer_{optimizer}" if optimizer else ""
    named = {name + suffix if name in _PER_OPTIMIZER else name: value for name, value in values.items()}
    return _finite({_separated(name, separator): value for name, value in named.items()})


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {tag: value for tag, value in values.items() if value is not None and math.isfinite(value)}


def _separated(name: str, separator: str) -> str:
    return name if separator == "/" else name.replace("/", separator)


_LAYER_METRICS = tuple(tag.name.removesuffix(f"/{LAYER}") for tag in LAYER_TAGS)
_PER_OPTIMIZER = {tag.name for tag in HEALTH_TAGS if tag.per_optimizer}


def as_markdown() -> str:
    """Return the page ``docs/logged_tags.md``."""
    return f"""\
# Logged tags

What gradwatch sends to the loggers of a run on every log step. `/` stands for the logger's own group separator. The
`health` values of single steps (all but `health/grad_norm_max` and `health/loss_max`) are in `trainer.callback_metrics`
too, for `ModelCheckpoint(monitor=...)` and `EarlyStopping`.

{_table(HEALTH_TAGS)}
One group for each layer, sent while `layer_scalars` allows it (`"auto"`: at most 200 tags, three for each layer):

{_table(LAYER_TAGS)}
- **Non-finite values** are never sent: a dashboard draws NaN and infinity as a gap, or not at all. The tag is absent at
  that step, and the integer `health/nonfinite` goes up by one for each step concerned.
- **Several optimizers.** A tag marked "per optimizer" is named after its optimizer from the second on:
  `health/grad_norm/optimizer_1`. The others count over the whole run. Per-layer tags carry no number, because a layer
  belongs to one optimizer; where two optimizers share a layer, its tags show the one that stepped last, and
  `events.jsonl` has both.
- **Absent tags.** `grad_norm` of a layer without gradient, `health/loss_scale` without a GradScaler and
  `health/gradient_check_error` before the first check are not sent. A `CSVLogger` leaves the cell empty; a column that
  appears late makes it write its file anew once.
- **The step** of every scalar is Lightning's count of batches that stepped, the x-axis of everything else that a
  `LightningModule` logs.
"""


def _table(tags: Iterable[Tag]) -> str:
    rows = ["| Tag | Unit | Meaning |", "|---|---|---|"]
    rows += [
        f"| `{t.name}` | {t.unit} | {_cell(t.meaning)}{'; per optimizer' if t.per_optimizer else ''} |" for t in tags
    ]
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
