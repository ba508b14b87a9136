"""What the monitor costs, in one page: norms, whole training steps, memory. Writes ``docs/benchmarks.md``.

Run on an otherwise idle machine: ``make benchmark`` (an hour, for the most part whole steps and memory), with ``--only
steps`` to measure one section of the page again, or with ``--quick`` for a first look that writes nothing. On a machine
with a GPU the norms are measured there too, with the device synchronisations counted.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import detectors, memory, norms, replay, steps

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
STEP_LIMITS = {"transformer": 1.01, "20 x conv + BatchNorm": 1.01, "MLP": 1.08}


def machine() -> str:
    """Return what the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {device};"
        f" Python {platform.python_version()}, torch {torch.__version__}"
    )


def step_table(rows: list[steps.StepRatio]) -> str:
    """Return the whole-step ratios as a markdown table; the goal stands beside gradwatch's own row."""
    lines = [
        "| workload | variant | ms a step | median step | whole cycles (quartiles) | goal |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = STEP_LIMITS.get(row.workload)
        goal = f"≤ {limit}" if limit is not None and row.variant.startswith("gradwatch") else ""
        cycles = f"{row.cycles:.3f} ({row.low:.3f} to {row.high:.3f})"
        lines.append(
            f"| {row.workload} | {row.variant} | {row.milliseconds:.2f} | {row.median:.3f} | {cycles} | {goal} |"
        )
    return "\n".join(lines)


def memory_text(held: memory.HeldMemory, grown: memory.Growth) -> str:
    """Return the memory figures in two sentences."""
    return (
        f"Between log steps, a network of {held.model / 1e6:.0f} MB: the monitor adds {held.added:,} bytes of tensors"
        f" (goal: at most {held.limit:,}). Python memory in use after {grown.early:,} records: {grown.bytes_early:,}"
        f" bytes; after {grown.late:,}: {grown.bytes_late:,}."
    )


def measure_steps(scale: float) -> list[steps.StepRatio]:
    """Train every workload, with a progress bar; for a first look, their first steps alone."""
    rows = []
    workloads = [name for name, span in steps.WORKLOADS.items() if scale >= 1 or span.skipped < steps.BEGUN]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("whole steps", total=len(workloads))
        for workload in workloads:
            progress.update(task, description=f"whole steps: {workload}")
            rows += steps.measure(workload, scale)
            progress.advance(task)
    return rows


def replay_table(scale: float) -> str:
    """Return what an incident costs."""
    rounds = max(2, round(replay.ROUNDS * scale))
    costs = [replay.measure(name, bug, rounds) for name, bug in replay.CASES]
    return (
        f"The folder of an incident of 100M parameters takes {replay.folder_seconds():.1f} s (goal: at most"
        f" {replay.FOLDER_LIMIT:g}).\n\n{replay.table(costs)}"
    )


def norms_section(scale: float) -> str:
    """Return times and accuracy of the norms."""
    ratios = norms.measure("cpu", scale)
    if torch.cuda.is_available():
        ratios += norms.measure("cuda", scale)
    return f"""\
## Norms, verdict and coefficient, against `torch.nn.utils.clip_grad_norm_`

{norms.ratio_table(ratios)}

### Accuracy: largest relative error of a norm against float64 (goal: at most 1e-5)

{norms.precision_table(norms.precision())}
"""


def steps_section(scale: float) -> str:
    """Return the times of whole training steps."""
    return f"""\
## A whole training step, against plain Lightning with `gradient_clip_val=1.0`

Default settings, `TensorBoardLogger`, a log step every {steps.LOG_EVERY} steps. The variants train in turns of a
fraction of a second, and each is compared with the plain steps of the same numbers beside its own: by the median step
of a turn, and by whole cycles of one or four log periods, with everything in them that happens at some steps only
(records, rules, logging, gradient checks). The first 20 log steps are the dearest, as all of them look at a forward
pass, and later ones each fourth time: the goals are for steps after the first {steps.BEGUN:,}, and what comes before
stands apart.

{step_table(measure_steps(scale))}
"""


def rules_section(_scale: float) -> str:
    """Return the time of the health rules."""
    return f"""\
## The health rules: one record of 200 layers in which nothing is missing

{detectors.table()}
"""


def incident_section(scale: float) -> str:
    """Return what an incident costs."""
    return f"""\
## An incident: the replay with its trace, against a normal step (forward, backward, AdamW)

Peaks are of resident memory, above that before. {replay_table(scale)}
"""


def memory_section(scale: float) -> str:
    """Return what the monitor holds."""
    return f"""\
## Memory

{memory_text(memory.held_between_log_steps(), memory.growth(100_000 if scale >= 1 else 2_000))}
"""


SECTIONS = {
    "norms": norms_section,
    "steps": steps_section,
    "rules": rules_section,
    "incident": incident_section,
    "memory": memory_section,
}


def beginning() -> str:
    """Return what stands above the sections."""
    return f"""\
# Benchmarks

Written by `make benchmark` on {machine()}.
Every ratio is the median of interleaved pairs: a slow minute of the machine hits both sides.
"""


def kept_sections(text: str) -> dict[str, str]:
    """Return the sections of a page that was measured on this machine, by name.

    Raises:
        SystemExit: it is another one's.
    """
    first, *sections = text.split("\n\n## ")
    if len(sections) != len(SECTIONS) or first.strip() != beginning().strip():
        raise SystemExit(f"{PAGE} was not measured here: run all of it (`make benchmark`), not --only a part")
    return {name: f"## {section.strip()}\n" for name, section in zip(SECTIONS, sections, strict=True)}


def main() -> None:
    """Measure, print, and write the page unless ``--quick``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, and the page is not written")
    parser.add_argument("--only", choices=SECTIONS, help="measure this section again; the page keeps the others")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    steps.quiet()
    writes, names = not arguments.quick, [arguments.only] if arguments.only else list(SECTIONS)
    texts = kept_sections(PAGE.read_text(encoding="utf-8")) if writes and arguments.only else {}
    for name in names:
        texts[name] = SECTIONS[name](1.0 if writes else 0.1)
        print(texts[name], flush=True)
    if writes:
        PAGE.write_text("\n".join([beginning(), *(texts[name] for name in SECTIONS)]), encoding="utf-8")


if __name__ == "__main__":
    main()
