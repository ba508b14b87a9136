"""What the Numerical Health tab costs: writing, loading, and TensorBoard's own start. One page of figures.

Writes ``docs/tensorboard_figures.md``. Run on an otherwise idle machine: ``make tensorboard-figures`` takes about ten
minutes; with ``BENCHMARK_ARGS="--steps 20000"`` it is a first look that writes nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorboard

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import tensorboard_writing
from benchmarks.overhead import machine
from tests.tensorboard_plugin.logs import SPIKE, at, odd_steps, write_long_run, write_run, write_scalars
from tests.tensorboard_plugin.serving import LOADERS, Server, distribution, serve

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tensorboard_figures.md"
STEPS, LAYERS, RUNS, OTHERS = 1_000_000, 500, 60, 100
START_ROUNDS, LISTINGS = 9, 50
START_LIMIT = 1.05


class Loading(NamedTuple):
    """Seconds for one loader, and whether the odd steps were found."""

    loader: str
    load: float
    matrix: float
    zoom: float
    layer: float
    curves: float
    rows: int
    found: bool


class Start(NamedTuple):
    """Medians of one loader, with the plugin or without.

    ``cpu`` is the time that TensorBoard's own process has computed until it listens, ``wall`` what a user waits,
    ``listing`` that of ``GET /data/plugins_listing``; seconds.
    """

    cpu: float
    wall: float
    listing: float


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something takes, and what it returns."""
    begin = time.perf_counter()
    result = act()
    return time.perf_counter() - begin, result


def loading(logs: Path, site: Path, loader: str, steps: int) -> Loading:
    """Load a long run and look for its two odd steps."""
    begin = time.perf_counter()
    with serve(logs, site, loader=LOADERS[loader]) as server:
        server.wait_for_runs(1, lambda run: bool(run["last"] == steps - 1))
        load = time.perf_counter() - begin
        query: dict[str, Any] = {"run": "long", "metric": "grad_norm", "columns": 800}
        half = query | {"from": steps // 2, "to": steps}
        matrix, answer = timed(lambda: server.ask("matrix", **query))
        zoom, _ = timed(lambda: server.ask("matrix", **half))
        layer, _ = timed(lambda: server.ask("layer", run="long", layer=1))
        curves, _ = timed(lambda: server.ask("curves", run="long"))
        header, values = answer.frame()
    return Loading(loader, load, matrix, zoom, layer, curves, header["rows"], _found(header, values, steps))


def _found(header: dict[str, Any], values: np.ndarray, steps: int) -> bool:
    """Whether the matrix has both odd steps, each once, and where they were."""
    nan_step, spike_step = odd_steps(steps)
    first, last = np.array(header["first"]), np.array(header["last"])
    columns = [np.argwhere(np.isnan(values)), np.argwhere(values == SPIKE)]
    return all(
        len(found) == 1 and first[found[0][0]] <= step <= last[found[0][0]]
        for found, step in zip(columns, (nan_step, spike_step), strict=True)
    )


def listing(logs: Path, site: Path, loader: str) -> tuple[float, float]:
    """Return the seconds in which many runs are listed: first of all, and when nothing has changed."""
    with serve(logs, site, loader=LOADERS[loader]) as server:
        server.wait_for_runs(RUNS, lambda run: bool(run["rows"] > 0))
        tag = server.ask("runs").headers["ETag"]
        unchanged = [timed(lambda: server.ask("runs", headers={"If-None-Match": tag}))[0] for _ in range(9)]
        fresh = [timed(lambda: server.ask("runs"))[0] for _ in range(9)]
    return statistics.median(fresh), statistics.median(unchanged)


def starting(logs: Path, sites: dict[str, Path], loader: str) -> dict[str, Start]:
    """Start TensorBoard in turn without the plugin and with it."""
    starts: dict[str, list[Start]] = {name: [] for name in sites}
    for i in range(START_ROUNDS):
        for name in sites if i % 2 else reversed(sites):
            begin = time.perf_counter()
            with serve(logs, sites[name], loader=LOADERS[loader]) as server:
                wall = time.perf_counter() - begin
                cpu = _cpu_seconds(server.process.pid)
                _wait_for_scalars(server)
                times = [timed(lambda: server.get("plugins_listing"))[0] for _ in range(LISTINGS)]
            starts[name].append(Start(cpu, wall, statistics.median(times)))
    return {name: Start(*map(statistics.median, zip(*each, strict=True))) for name, each in starts.items()}


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_for_scalars(server: Server) -> None:
    while len(server.get("plugin/scalars/tags").json()) < OTHERS:
        time.sleep(0.1)


def page(steps: int) -> str:
    """Measure everything and return the page."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        site = distribution(place / "with")
        sites = {"plain": distribution(place / "without", plugin=False), "ours": site}
        written, _ = timed(lambda: write_long_run(place / "long" / "long", steps, LAYERS))
        size = sum(file.stat().st_size for file in (place / "long" / "long").iterdir())
        loaded = [loading(place / "long", site, loader, steps) for loader in LOADERS]
        for i in range(RUNS):
            write_run(place / "many" / f"run_{i}", *(at(step, LAYERS) for step in range(300)))
        listed = {loader: listing(place / "many", site, loader) for loader in LOADERS}
        for i in range(OTHERS):
            write_scalars(place / "others" / f"run_{i}")
        started = {loader: starting(place / "others", sites, loader) for loader in LOADERS}
    return f"""\
# The Numerical Health tab in figures

Written by `benchmarks/tensorboard_loading.py` on {machine()}, TensorBoard {tensorboard.__version__}; load average
{os.getloadavg()[2]:.1f} over the last 15 minutes.

## A long run

{steps:,} steps of {LAYERS} layers, every step logged: {loaded[0].rows:,} rows, {size / 1e6:.0f} MB, written in
{written:.0f} s ({1e6 * written / steps:.0f} µs a step, with all that TensorBoard's writer does in a thread of its own).
Two steps are odd: one NaN in one layer, and in another layer one norm 100 times the usual.

| loader | loaded after | heatmap of 800 columns | the same, zoomed in | one layer | curves | both odd steps found |
|---|---|---|---|---|---|---|
{_lines(_loading_row(row) for row in loaded)}

"Loaded after" begins with the start of TensorBoard.

## Many runs

{RUNS} runs of 300 rows and {LAYERS} layers:

| loader | list of runs | nothing has changed |
|---|---|---|
{_lines(f"| {name} | {_ms(fresh)} | {_ms(same)} |" for name, (fresh, same) in listed.items())}

## TensorBoard itself

{OTHERS} runs of somebody else, without any data of gradwatch; medians of {START_ROUNDS} starts in turn. The goal is a
ratio of at most {START_LIMIT}. "Computing" is the processor time of TensorBoard's process until it listens.

| loader | | without | with | ratio |
|---|---|---|---|---|
{_lines(_start_rows(loader, starts) for loader, starts in started.items())}

## Writing

One record of {tensorboard_writing.LAYERS} layers in the training thread (goal: at most
{tensorboard_writing.LIMIT_US:g} µs for the tab), from `benchmarks/tensorboard_writing.py`:

{tensorboard_writing.table()}
"""


def _loading_row(row: Loading) -> str:
    times = (row.matrix, row.zoom, row.layer, row.curves)
    return f"| {row.loader} | {row.load:.1f} s | {' | '.join(map(_ms, times))} | {'yes' if row.found else '**no**'} |"


def _start_rows(loader: str, starts: dict[str, Start]) -> str:
    names = ("start, computing", "start, waiting", "`plugins_listing`")
    rows = zip(names, starts["plain"], starts["ours"], strict=True)
    return _lines(
        f"| {loader} | {name} | {_ms(plain)} | {_ms(ours)} | {ours / plain:.3f} |" for name, plain, ours in rows
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds < 0.01 else f"{1e3 * seconds:.0f} ms"


def _lines(rows: Any) -> str:
    return "\n".join(rows)


if __name__ == "__main__":
    logging.getLogger("gradwatch").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    text = page(arguments.steps)
    print(text)
    if arguments.steps == STEPS:
        PAGE.write_text(text, encoding="utf-8")
