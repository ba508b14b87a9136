"""What the files of a run cost: a row of the ring file at every step, and the log that is thinned as it grows.

Costs are in processor time, which a busy machine changes little; only the longest wait is by the clock on the wall.

``python benchmarks/event_log.py`` prints both tables in about two minutes; ``--layers 200 --records 1000000`` writes
the log of a million steps instead, which takes ten to twenty.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from gradwatch.capture.history import Source, StepRow
from gradwatch.engine.flight_recorder import FlightRecorder
from gradwatch.engine.watched import Watched
from gradwatch.records import ClipState, LayerNorms, StepRecord, Window
from gradwatch.serialization import to_json_line
from gradwatch.sinks.event_log import EventLog

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS, STEPS = 7, 3000
PARAMETERS = (6, 200, 2000)
LOGS = ((3, 300_000), (20, 100_000), (200, 12_000), (2000, 1500))  # layers, records
SAMPLES = 20  # different records, over and over


def ring_microseconds(parameters: int) -> float:
    """Return what a row costs: the median over rounds of histories with and without a ring file."""
    module = nn.Sequential(*[nn.Linear(2, 2) for _ in range(parameters // 2)])
    watched = Watched(module, [torch.optim.SGD(module.parameters(), lr=0.1)], "layer")
    history, source = watched.histories[0], Source(watched.groups[0], None)
    norms = array("d", np.random.default_rng(0).random(parameters))
    flight = FlightRecorder(watched, 0)
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        flight.open(Path(folder) / "events.jsonl", "benchmark")
        for _ in range(ROUNDS):
            times = [time.process_time()]
            for with_file in (False, True):
                for step in range(STEPS):
                    history.add(StepRow(step, 0, step, 0.5, 1.0, 1.0, (1e-3,), None, 8, False), norms, source)
                    if with_file:
                        flight.add(0)
                times.append(time.process_time())
            costs.append((times[2] - times[1]) - (times[1] - times[0]))
        flight.close(remove=True)
    return float(np.median(costs)) / STEPS * 1e6


class LogCost(NamedTuple):
    """What a log has cost: sizes in MB (``peak`` with its successor beside it), times in milliseconds.

    ``mean`` is processor time a record, ``longest`` the longest wait for one.
    """

    layers: int
    records: int
    written: float
    peak: float
    end: float
    mean: float
    longest: float


def log_cost(layers: int, records: int) -> LogCost:
    """Write so many records; what it takes to make their text is not counted."""
    rng = random.Random(0)
    lines = [to_json_line(_record(rng, number, layers)).encode() for number in range(SAMPLES)]
    busy, longest, peak, written = 0.0, 0.0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        log = EventLog(folder, 0)
        for number in range(records):
            line = _at(lines[number % SAMPLES], number % SAMPLES, number)
            start, before = time.perf_counter(), time.process_time()
            log._attempt(line, is_run_start=False)  # noqa: SLF001 - the text is made already
            busy += time.process_time() - before
            longest = max(longest, time.perf_counter() - start)
            written += len(line)
            if number % SAMPLES == 0:
                peak = max(peak, sum(path.stat().st_size for path in Path(folder).iterdir()))
        log.close()
        end = sum(path.stat().st_size for path in Path(folder).iterdir())
    return LogCost(layers, records, written / 1e6, peak / 1e6, end / 1e6, busy / records * 1e3, longest * 1e3)


def _record(rng: random.Random, step: int, layers: int) -> StepRecord:
    norms = {
        f"encoder.layers.{number // 4}.block.{number}": LayerNorms(
            grad_norm=rng.random(), weight_norm=10 * rng.random(), update_ratio=1e-3 * rng.random(), nonfinite=0
        )
        for number in range(layers)
    }
    return StepRecord(
        time=1.7e9,
        step=step,
        epoch=0,
        batch_idx=0,
        rank=0,
        optimizer=0,
        log_step=step,
        loss=rng.random(),
        grad_norm=rng.random(),
        clip=ClipState(max_norm=1.0, coefficient=1.0, clipped=False, rate=0.0, largest_layer=None),
        lr=1e-3,
        lr_groups=[1e-3],
        loss_scale=None,
        skipped_steps=0,
        nonfinite_steps=0,
        window=Window(
            steps=1,
            grad_norm_max=rng.random(),
            grad_norm_max_step=step,
            loss_max=rng.random(),
            clipped_steps=0,
            skipped_steps=0,
            nonfinite_steps=0,
        ),
        layers=norms,
    )


def _at(line: bytes, before: int, step: int) -> bytes:
    for key in (b"step", b"log_step"):
        line = line.replace(b'"%s": %d,' % (key, before), b'"%s": %d,' % (key, step), 1)
    return line


def ring_table() -> str:
    """Return what a row of the ring file costs."""
    rows = [f"| {count:,} | {ring_microseconds(count):.1f} |" for count in PARAMETERS]
    return "\n".join(["| parameters | µs a step |", "|---|---|", *rows])


def log_table(logs: Sequence[tuple[int, int]]) -> str:
    """Return what logs cost."""
    head = ("layers", "records", "written, MB", "largest on disk, MB", "at the end, MB", "ms a record", "longest, ms")
    rows = [
        f"| {cost.layers:,} | {cost.records:,} | {cost.written:,.0f} | {cost.peak:.0f} | {cost.end:.0f}"
        f" | {cost.mean:.3f} | {cost.longest:.0f} |"
        for cost in (log_cost(layers, records) for layers, records in logs)
    ]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=200, help="with --records: of the model")
    parser.add_argument("--records", type=int, help="measure this log alone")
    chosen = parser.parse_args()
    if chosen.records is None:
        print(ring_table(), end="\n\n")
    print(log_table(LOGS if chosen.records is None else [(chosen.layers, chosen.records)]))


if __name__ == "__main__":
    main()
