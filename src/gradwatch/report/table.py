"""The step records of a run as one table: a pandas DataFrame where pandas is installed, else numpy columns."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.report.columns import StepTable
from gradwatch.report.run import choose, read_runs
from gradwatch.report.steps import Layers, Steps

if TYPE_CHECKING:
    import os

    from gradwatch.report.run import Run

QUANTITIES = ("grad_norm", "weight_norm", "update_ratio", "nonfinite")


def load_steps(path: str | os.PathLike[str], *, run_id: str | None = None) -> Any:
    """Return the step records of a run as one table, a row for each record, in the order of steps.

    The columns are those of ``Steps`` (``optimizer``, ``step``, ``log_step``, ``epoch``, ``time``, ``loss``,
    ``grad_norm``, ``lr``, ``loss_scale``, ``coefficient``, ...) and, for each layer, ``grad_norm/<layer>``,
    ``weight_norm/<layer>``, ``update_ratio/<layer>`` and ``nonfinite/<layer>``. The ranges that records stand for are
    in ``<column>_low`` and ``<column>_high``, for layers ``grad_norm_high/<layer>`` and so on; where no record of the
    run stands for more than its own value, these columns of layers are left out. NaN stands for "not known";
    infinite values are infinite. Needs no torch.

        steps = gradwatch.load_steps("lightning_logs/version_0")
        steps.plot("step", "grad_norm/encoder.layers.0", logy=True)

    Args:
        path: the folder of a run, one of its logs, or a folder above.
        run_id: the beginning of a run's id. Default: the last run.

    Returns:
        A ``pandas.DataFrame`` if pandas is installed, else a dict of numpy arrays, all of the same length. A run
        without a record has its columns all the same, and no row.

    Raises:
        FileNotFoundError: there is no event log.
        SchemaError: a log holds something else than events; the message names file and line.
        ValueError: there is no such run, or ``path`` holds several folders with runs.
    """
    run = choose(read_runs(path), run_id)
    columns = as_columns(run.steps or [_no_records(run)])
    return import_module("pandas").DataFrame(columns) if find_spec("pandas") else columns


def as_columns(tables: list[Steps]) -> dict[str, np.ndarray]:
    """Return the records of all optimizers as columns; a layer that an optimizer does not have is NaN in its rows."""
    parts = [_columns(steps) for steps in tables]
    names = dict.fromkeys(name for part in parts for name in part)
    lengths = list(map(len, tables))
    order = np.argsort(np.concatenate([steps.step for steps in tables]), kind="stable") if tables else np.zeros(0, int)
    joined = {}
    for name in names:
        pieces = [part.get(name, np.full(length, np.nan)) for part, length in zip(parts, lengths, strict=True)]
        joined[name] = np.concatenate(pieces)[order]
    return joined


def _no_records(run: Run) -> Steps:
    """Return the table of a run that was too short for a record, with the layers that its optimizers have."""
    rows = run.start.parameters if run.start is not None else []
    names = dict.fromkeys(row.layer for row in rows if row.optimizer is not None)
    return StepTable(0).finish({name: place for place, name in enumerate(names)})


def _columns(steps: Steps) -> dict[str, np.ndarray]:
    plain = [field.name for field in fields(Steps) if field.name not in ("optimizer", "layers", "lr_groups")]
    columns = {"optimizer": np.full(len(steps), steps.optimizer)} | {name: getattr(steps, name) for name in plain}
    columns |= {f"lr/{group}": steps.lr_groups[:, group] for group in range(steps.lr_groups.shape[1])}
    for quantity in _quantities(steps.layers):
        table = getattr(steps.layers, quantity)
        columns |= {f"{quantity}/{name}": table[:, place] for place, name in enumerate(steps.layers.names)}
    return columns


def _quantities(layers: Layers) -> list[str]:
    """Return the quantities of layers, with their ranges where there are any beyond the values themselves."""
    found = []
    for quantity in QUANTITIES:
        found.append(quantity)
        if quantity != "nonfinite" and getattr(layers, f"{quantity}_high") is not getattr(layers, quantity):
            found += [f"{quantity}_low", f"{quantity}_high"]
    return found
