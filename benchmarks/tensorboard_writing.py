"""What the Numerical Health tab costs the training thread: the time of one record of 500 layers, by sink.

Each record goes to all sinks in turn, so that a slow moment of the machine hits all of them. The figure is the time of
all records of a run divided by their number, because most records are pooled and some become a row; then the median
over rounds. It is time that the thread was computing: what another process takes from it is not its cost. The writers'
threads get the time to empty their queues, as they have between two log steps: checksums and disk are their business.

Run with ``python benchmarks/tensorboard_writing.py``; the goal is 100 µs a record for the sink of the tab.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gradwatch.records import LayerTable
from gradwatch.sinks.event_log import EventLog
from gradwatch.sinks.loggers import LoggerSink
from gradwatch.sinks.tensorboard import TensorBoardSink
from tests.sinks.samples import run_start, step_record

if TYPE_CHECKING:
    from gradwatch.records import StepRecord

LAYERS, ROUNDS = 500, 5
LENGTHS = (1_000, 3_000, 10_000)
LIMIT_US = 100.0
TAB, SCALARS, LINES = "Numerical Health tab", "`health` scalars", "`events.jsonl`"


NAMES = tuple(f"block.{i}" for i in range(LAYERS))


def new_record(step: int) -> StepRecord:
    """Return a record in which nothing is missing, as nearly all of an engine are: new numbers, the same names."""
    norms = 1e-3 * (step + 1) + np.arange(LAYERS)
    factors = {"grad_norm": 1.0, "weight_norm": 30.0, "update_ratio": 1e-3, "nonfinite": 0.0, "grad_norm_max": 1.0}
    columns = {field: array("d", (norms * factor).tobytes()) for field, factor in factors.items()}
    return step_record(1, step=step, log_step=step, layers=LayerTable(NAMES, columns, {}))


def microseconds(records: int) -> dict[str, float]:
    """Write one run to each sink and return the mean time of a record."""
    with tempfile.TemporaryDirectory() as folder:
        loggers = {name: TensorBoardLogger(folder, name=name) for name in (TAB, SCALARS)}
        sinks: dict[str, Any] = {
            TAB: TensorBoardSink([loggers[TAB]]),
            SCALARS: LoggerSink([loggers[SCALARS]], layer_scalars=False),
            LINES: EventLog(folder),
        }
        spent = dict.fromkeys(sinks, 0.0)
        for sink in sinks.values():
            sink.write(run_start(step=0))
        names = list(sinks)
        for i in range(records):
            record = new_record(i)  # just made, as the engine's are
            for name in names if i % 2 else reversed(names):
                begin = time.thread_time()
                sinks[name].write(record)
                spent[name] += time.thread_time() - begin
                if name in loggers:
                    loggers[name].experiment.flush()
        for sink in sinks.values():
            sink.close()
        for logger in loggers.values():
            logger.finalize("success")
    return {name: 1e6 * seconds / records for name, seconds in spent.items()}


def table() -> str:
    """Return the times as a markdown table."""
    lines = [f"| records | {TAB} | {SCALARS} | {LINES} |", "|---|---|---|---|"]
    for records in LENGTHS:
        rounds = [microseconds(records) for _ in range(ROUNDS)]
        cells = [f"{statistics.median(spent[name] for spent in rounds):.0f} µs" for name in (TAB, SCALARS, LINES)]
        lines.append(f"| {records:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    logging.getLogger("gradwatch").setLevel(logging.ERROR)
    print(f"One record of {LAYERS} layers (goal for the tab: {LIMIT_US:g} µs)\n\n{table()}")
