"""What the health rules cost: the time of one record of a healthy training with 200 layers, by rule.

Run with ``python benchmarks/detectors.py``; the goal is 1 ms a record for all rules together.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gradwatch.detectors.default import DETECTORS
from gradwatch.detectors.panel import Panel
from tests.detectors.observations import observation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.detectors.detector import Detector

LAYERS, RECORDS, ROWS = 200, 200, 50
LIMIT_MS = 1.0


def milliseconds(detectors: Sequence[Detector]) -> float:
    """Return the median time that a record takes."""
    names = tuple(f"block.{i // 2}{'.norm' if i % 2 else ''}" for i in range(LAYERS))
    panel, times = Panel(detectors), []
    for i in range(1, RECORDS + 1):
        record = observation(ROWS * i, ROWS, names=names)
        begin = time.perf_counter()
        panel.observe(record)
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def table(detectors: Sequence[Detector] = DETECTORS) -> str:
    """Return the times as a markdown table, all rules together first."""
    lines = ["| rule | ms a record |", "|---|---|"]
    lines.append(f"| all {len(detectors)} (goal: at most {LIMIT_MS:g}) | {milliseconds(detectors):.3f} |")
    lines += [f"| {detector.rule.code} | {milliseconds([detector]):.3f} |" for detector in detectors]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
