"""What the health rules cost: the time of one record of a healthy training with 200 layers, by rule.

Everything that a rule may read is there: a sampled forward pass with the inputs and outputs of all layers and 50 batch
normalisations, fp16 with a loss scale, eight ranks. Run with ``python benchmarks/detectors.py``; the goal is 1 ms a
record for all rules together.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gradwatch.detectors.default import DETECTORS
from gradwatch.detectors.panel import Panel
from gradwatch.observations import BatchNormState, Forward, LayerInput, ModuleOutput, Observation, Ranks, Setting
from tests.detectors.observations import observation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.detectors.detector import Detector

LAYERS, RECORDS, ROWS = 200, 200, 50
LIMIT_MS = 1.0


def full_record(step: int, names: tuple[str, ...]) -> Observation:
    """Return the record of a healthy step in which nothing is missing."""
    random = np.random.default_rng(step)
    size = 3.0 + random.random(len(names))
    inputs = tuple(
        LayerInput(layer=name, mean=0.0, std=1.0, largest=float(x), is_data=i == 0, activation="relu", source=name,
                   dead=0.1, units=64)
        for i, (name, x) in enumerate(zip(names, size, strict=True))
    )  # fmt: skip
    outputs = tuple(
        ModuleOutput(module=name, largest=float(x), limit=65504.0) for name, x in zip(names, size, strict=True)
    )
    norms = tuple(
        BatchNormState(module=name, samples=32, at_start=False, finite=True) for name in names[: len(names) // 4]
    )
    return observation(
        step,
        ROWS,
        names=names,
        setting=Setting(compute="fp16", has_scaler=True, world_size=8, max_norm=1.0),
        rows_changed={"loss_scale": 65536.0},
        layers_changed={"subnormal": 0.01},
        forward=Forward(inputs=inputs, outputs=outputs, batch_norms=norms),
        ranks=Ranks(np.ones((8, len(names))), np.ones((8, len(names)))),
    )


def milliseconds(detectors: Sequence[Detector]) -> float:
    """Return the median time that a record takes."""
    names = tuple(f"block.{i // 2}{'.norm' if i % 2 else ''}" for i in range(LAYERS))
    panel, times = Panel(detectors), []
    for i in range(1, RECORDS + 1):
        record = full_record(ROWS * i, names)
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
