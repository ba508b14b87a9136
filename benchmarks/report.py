"""What a report costs: building it, its size, and opening it in a browser.

    python benchmarks/report.py                 the table, on logs that are made first (143 MB at a time)
    python benchmarks/report.py --folder DIR    also for a run of one's own

Building is ``gradwatch report`` in a process of its own, from its start to its end. Opening is a headless Chromium,
where Playwright and the system's Chromium are there: the load event, and the first paint. Each is the median of
``--repeat`` runs; on a busy machine the processor time says more.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.report.synthetic import Spike, write_run

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]"
LIMITS = {"build": 5.0, "size": 8.0, "open": 2.0}  # seconds, MB, seconds: for 2,000 layers and 100,000 steps


class Case(NamedTuple):
    """A run to make a report of."""

    name: str
    setting: dict[str, Any]


class Cost(NamedTuple):
    """Megabytes of the log, seconds and processor seconds to build, megabytes of the page, seconds to open it."""

    log: float
    build: float
    processor: float
    size: float
    load: float | None
    paint: float | None


LARGE = {"layers": 2000, "steps": 100_000}
CASES = (
    Case("20 layers, 2,000 steps", {}),
    Case("200 layers, 100,000 steps, 2,000 records", {**LARGE, "layers": 200, "records": 2000, "pooled": False}),
    Case("2,000 layers, 100,000 steps, 400 records", {**LARGE, "records": 400, "pooled": False}),
    Case("2,000 layers, 100,000 steps, thinned to 200", {**LARGE, "records": 200}),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a run of one's own")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()

    print("| run | log | built in | processor time | page | load event | first paint |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for case in CASES:
            folder = Path(temporary) / "run"
            layers = case.setting.get("layers", 20)
            spikes = [Spike(record=100, layer=layers // 3, factor=1e4)]
            write_run(folder, spikes=spikes, bad=[(150, layers // 2)], **case.setting)
            print_row(case.name, cost(folder, Path(temporary) / "report.html", arguments.repeat))
            shutil.rmtree(folder)
        if arguments.folder is not None:
            print_row(str(arguments.folder), cost(arguments.folder, Path(temporary) / "report.html", arguments.repeat))
    limits = ", ".join(f"{name} {limit:g}" for name, limit in LIMITS.items())
    print(f"\nLimits for 2,000 layers and 100,000 steps: {limits} (s, MB, s).")


def cost(folder: Path, page: Path, repeat: int) -> Cost:
    """Return what the report of a run costs."""
    log = sum(file.stat().st_size for file in folder.rglob("events*.jsonl")) / 1e6
    built, processor = (
        statistics.median(part) for part in zip(*(build(folder, page) for _ in range(repeat)), strict=True)
    )
    opened = [times for times in (opening(page) for _ in range(repeat)) if times is not None]
    load, paint = (statistics.median(part) for part in zip(*opened, strict=True)) if opened else (None, None)
    return Cost(log, built, processor, page.stat().st_size / 1e6, load, paint)


def build(folder: Path, page: Path) -> tuple[float, float]:
    """Return the seconds from the start of the command to its end, and those of the processor."""
    command = [sys.executable, "-m", "gradwatch.cli", "report", str(folder), "-o", str(page)]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the command is our own
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def opening(page: Path) -> tuple[float, float] | None:
    """Return the seconds to the load event and to the first paint, or None without a browser."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - may be missing
    except ImportError:
        return None
    if chromium is None:
        return None
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900}, bypass_csp=True)  # to wait by an expression
        tab.goto(page.resolve().as_uri(), wait_until="load")
        tab.wait_for_function(f"{PAINT} !== undefined")  # it may come after the load event
        load, paint = tab.evaluate(
            f"() => [performance.getEntriesByType('navigation')[0].loadEventStart, {PAINT}.startTime]"
        )
        browser.close()
    return load / 1e3, paint / 1e3


def print_row(name: str, found: Cost) -> None:
    """Print a line of the table."""
    seconds = [
        "-" if part is None else f"{part:.2f} s" for part in (found.build, found.processor, found.load, found.paint)
    ]
    built, processor, load, paint = seconds
    print(
        f"| {name} | {found.log:.0f} MB | {built} | {processor} | {found.size:.2f} MB | {load} | {paint} |", flush=True
    )


if __name__ == "__main__":
    main()
