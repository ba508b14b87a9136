"""The answers to what the page asks, as plain values: one method for each route."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.serialization import SchemaError
from gradwatch.serialization.tensorboard_rows import CURVE_NAMES, METRICS, UNKNOWN, Metric
from gradwatch.tensorboard_plugin.answers import RequestError, etag, frame
from gradwatch.tensorboard_plugin.cache import Cache
from gradwatch.tensorboard_plugin.episodes import read_events, severity_counts, summarise
from gradwatch.tensorboard_plugin.pooling import pooled, within
from gradwatch.tensorboard_plugin.reading import UNREADABLE, Rows, RunIndex, Source, merged, read_rows, read_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorboard.data.provider import TensorDatum

MAX_CACHED_BYTES = 256 * 2**20

Summary = dict[str, list[dict[str, Any]]]


class Queries:
    """Answers from the data of a provider; what has been read is kept until a run has something new."""

    def __init__(self) -> None:
        self._cache = Cache(MAX_CACHED_BYTES)

    def runs(self, source: Source, runs: dict[str, RunIndex]) -> dict[str, Any]:
        """Return what there is of each run."""
        ends = self._ends(source, runs)
        described = [self._run(source, run, ends.get(name, (0, run.last))) for name, run in sorted(runs.items())]
        return {"runs": described}

    def matrix(
        self,
        source: Source,
        run: RunIndex,
        metric: Metric,
        optimizer: int,
        *,
        begin: int | None,
        end: int | None,
        columns: int,
    ) -> bytes:
        """Return a metric of all layers over steps."""
        rows = within(self._layers(source, run, optimizer, metric), begin, end)
        shown = pooled(rows, columns, begin, end)
        note = UNREADABLE if rows.damaged else None
        return frame({"layers": shown.names, **_range(shown), "rows": len(rows.last), "note": note}, shown.values)

    def layer(self, source: Source, run: RunIndex, optimizer: int, layer: int) -> bytes:
        """Return all metrics of one layer, row by row."""
        metrics = [metric for metric in METRICS if run.tags("layers", optimizer, metric)]
        tables = [self._layers(source, run, optimizer, metric) for metric in metrics]
        if not tables or not 0 <= layer < len(tables[0].names):
            raise RequestError(f"optimizer {optimizer} of run {run.name!r} has no layer {layer}", 404)
        name = tables[0].names[layer]
        steps = tables[0].last
        values = [_column_at(table, name, steps) for table in tables]
        return frame({"layer": name, "metrics": metrics, **_range(tables[0])}, np.stack(values))

    def curves(self, source: Source, run: RunIndex, optimizer: int) -> bytes:
        """Return the curves of one optimizer, row by row."""
        tags = _known(run, run.tags("curves", optimizer), f"optimizer {optimizer}")
        rows = self._rows(source, run, tags, np.float64)
        return frame({"columns": rows.names, **_range(rows)}, rows.values.T)

    def events(self, source: Source, run: RunIndex) -> Summary:
        """Return findings as episodes, incidents, gradient checks, starts and ends."""
        return self._events(source, run)[0]

    # -- parts ----------------------------------------------------------------------------------------------------

    def _run(self, source: Source, run: RunIndex, end: tuple[int, int | None]) -> dict[str, Any]:
        rows, last = end
        summary, damaged = self._events(source, run)
        first = min((start["log_step"] for start in summary["starts"]), default=None)
        return {
            "name": run.name,
            "version": run.version,
            "note": run.note or (UNREADABLE if damaged else None),
            "optimizers": _optimizers(run),
            "rows": rows,
            "first": None if last is None else min(last, first or 0),
            "last": last,
            "findings": severity_counts(summary["findings"]),
            "incidents": len(summary["incidents"]),
            "checks": len(summary["checks"]),
            "key": etag(run.stamp),
        }

    def _events(self, source: Source, run: RunIndex) -> tuple[Summary, bool]:
        def make() -> tuple[Summary, bool]:
            try:
                texts = [*read_texts(source, run, "start"), *read_texts(source, run, "events")]
            except SchemaError:
                return summarise([]), True
            events, damaged = read_events(texts)
            return summarise(events), damaged

        key = (source.experiment, run.name, "events")
        return self._cache.get(key, run.stamp, make, lambda found: 1000 * (1 + sum(map(len, found[0].values()))))

    def _layers(self, source: Source, run: RunIndex, optimizer: int, metric: Metric) -> Rows:
        what = f"{metric} of optimizer {optimizer}"
        return self._rows(source, run, _known(run, run.tags("layers", optimizer, metric), what), np.float32)

    def _rows(self, source: Source, run: RunIndex, tags: list[str], dtype: type[np.floating]) -> Rows:
        def make() -> Rows:
            try:
                return read_rows(source, run, tags, dtype, UNKNOWN)
            except SchemaError as error:
                raise RequestError(f"run {run.name!r}: {error}", 404) from None

        key = (source.experiment, run.name, *tags)
        return self._cache.get(key, run.stamp, make, lambda rows: rows.values.nbytes)

    def _ends(self, source: Source, runs: dict[str, RunIndex]) -> dict[str, tuple[int, int]]:
        """Return how many rows each run has, by the number that its last one bears, and the log step of that row.

        One question for all runs. The last row is the one written last: a run that was resumed may have been farther.
        """
        tags = {run.name: run.tags("curves") for run in runs.values()}
        try:
            last = _last_rows(source, tags)
        except Exception:  # noqa: BLE001 - a damaged run spoils the answer for all: ask for one at a time
            last = {}
            for name, several in tags.items():
                with suppress(Exception):
                    last |= _last_rows(source, {name: several})
        found = {name: [data[tag] for tag in tags[name] if data.get(tag)] for name, data in last.items()}
        return {
            name: (sum(map(_number, several)), max(data[-1].step for data in several))
            for name, several in found.items()
            if several
        }


def _last_rows(source: Source, tags: dict[str, list[str]]) -> dict[str, dict[str, Sequence[TensorDatum]]]:
    wanted = {tag for several in tags.values() for tag in several}
    return source.read([name for name in tags if tags[name]], wanted, 1) if wanted else {}


def _optimizers(run: RunIndex) -> list[dict[str, Any]]:
    found = []
    for optimizer in sorted({series.optimizer for series in run.series.values() if series.kind == "layers"}):
        metrics = [metric for metric in METRICS if run.tags("layers", optimizer, metric)]
        layers = merged([run.series[tag].names for tag in run.tags("layers", optimizer, metrics[0])])
        found.append({"optimizer": optimizer, "layers": layers, "metrics": metrics})
    return found


def _known(run: RunIndex, tags: list[str], what: str) -> list[str]:
    if not tags:
        raise RequestError(f"run {run.name!r} has no {what}" + (f": {run.note}" if run.note else ""), 404)
    return tags


def _range(rows: Rows) -> dict[str, list[int]]:
    return {"first": rows.first.tolist(), "last": rows.last.tolist()}


def _column_at(table: Rows, name: str, steps: np.ndarray) -> np.ndarray:
    """Return the values of a layer at some steps, ``UNKNOWN`` where the table has no row."""
    values = np.full(len(steps), UNKNOWN, table.values.dtype)
    if name in table.names:
        _, here, there = np.intersect1d(steps, table.last, assume_unique=True, return_indices=True)
        values[here] = table.values[there, table.names.index(name)]
    return values


def _number(data: Sequence[TensorDatum]) -> int:
    """Return how many rows there are, by what the last one says."""
    row = data[-1].numpy
    return int(row[_ROW]) + 1 if row.shape == (len(CURVE_NAMES),) and np.isfinite(row[_ROW]) else 0


_ROW = CURVE_NAMES.index("row")
