"""From TensorBoard's data provider to arrays: what each run has, and the rows of one series at a time.

The provider hands out whatever is in the event files under our name, so everything is checked: a run that was cut off,
damaged, or written by a later version gets a note, and the others are as they were.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tensorboard.data.provider import RunTagFilter

from gradwatch.serialization import SchemaError
from gradwatch.serialization.tensorboard_rows import PLUGIN_NAME, VERSION, Kind, Metric, Series, read_content

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tensorboard.data.provider import TensorDatum

ALL_ROWS = 1_000_000
# The fast data server refuses answers of more than 256 MB.
MAX_ANSWER_BYTES = 200 * 2**20
UNREADABLE = "some of its data are damaged and left out"


class Source(NamedTuple):
    """Where the data of one request come from."""

    provider: Any
    context: Any
    experiment: str

    def list(self, run: str | None = None) -> dict[str, RunIndex]:
        """Return what each run has of ours, or one run alone."""
        only = None if run is None else RunTagFilter(runs=[run])
        found = self.provider.list_tensors(
            self.context, experiment_id=self.experiment, plugin_name=PLUGIN_NAME, run_tag_filter=only
        )
        return {name: _index(name, tags) for name, tags in found.items() if tags}

    def read(
        self, runs: Iterable[str], tags: Iterable[str], rows: int = ALL_ROWS
    ) -> dict[str, dict[str, Sequence[TensorDatum]]]:
        """Return the last of so many tensors of each tag, oldest first; with the data of a run without a fault."""
        found: dict[str, dict[str, Sequence[TensorDatum]]] = self.provider.read_tensors(
            self.context,
            experiment_id=self.experiment,
            plugin_name=PLUGIN_NAME,
            downsample=rows,
            run_tag_filter=RunTagFilter(runs=list(runs), tags=list(tags)),
        )
        return found


class RunIndex(NamedTuple):
    """What there is of one run.

    Attributes:
        name: as TensorBoard calls it.
        series: by tag, those that can be read.
        note: why it cannot be shown, or only in part.
        stamp: tags with their last step and time: it changes whenever there is something new.
    """

    name: str
    series: dict[str, Series]
    note: str | None
    stamp: tuple[tuple[str, int, float], ...]

    @property
    def version(self) -> int | None:
        """The version of its rows, None where none can be read."""
        return VERSION if self.series else None

    @property
    def last(self) -> int | None:
        """The last log step of its rows."""
        return max((step for tag, step, _ in self.stamp if self._is_rows(tag)), default=None)

    def tags(self, kind: Kind, optimizer: int = 0, metric: Metric | None = None) -> list[str]:
        """Return the tags of a kind: more than one where the layers have changed."""
        wanted = (kind, optimizer, metric)
        return [tag for tag, series in self.series.items() if (series.kind, series.optimizer, series.metric) == wanted]

    def _is_rows(self, tag: str) -> bool:
        return tag in self.series and self.series[tag].kind in ("layers", "curves")


class Rows(NamedTuple):
    """The rows of one or several series.

    Row ``i`` stands for log steps ``first[i]`` to ``last[i]``; ``values`` has shape [rows, names].
    ``damaged``: rows had to be left out.
    """

    names: tuple[str, ...]
    first: np.ndarray
    last: np.ndarray
    values: np.ndarray
    damaged: bool = False


def read_rows(source: Source, run: RunIndex, tags: Sequence[str], dtype: type[np.floating], unknown: float) -> Rows:
    """Return the rows of the tags as one table, whose names are those of all series; ``unknown`` where one has none.

    Raises:
        SchemaError: the data cannot be read.
    """
    names = merged([run.series[tag].names for tag in tags])
    width = max(1, len(names)) * np.dtype(dtype).itemsize
    data = _read(source, run, tags, min(ALL_ROWS, MAX_ANSWER_BYTES // width))
    found = [(datum, tag) for tag in tags for datum in data.get(tag, ())]
    if len(tags) > 1:
        found.sort(key=lambda pair: pair[0].wall_time)
    good = [(datum, tag) for datum, tag in found if _is_row(datum, run.series[tag], dtype)]
    kept = last_written(good)
    values = np.full((len(kept), len(names)), unknown, dtype)
    for tag in tags:
        columns = _positions(run.series[tag].names, names)
        rows = [i for i, (_, other) in enumerate(kept) if other == tag]
        if rows:
            values[np.ix_(rows, columns)] = np.stack([kept[i][0].numpy for i in rows])
    last = np.array([datum.step for datum, _ in kept], dtype=np.int64)
    return Rows(names, first_steps(last), last, values, len(good) < len(found))


def read_texts(source: Source, run: RunIndex, kind: Kind) -> list[tuple[int, bytes]]:
    """Return the texts of a kind, each with its log step, oldest first."""
    tags = run.tags(kind)
    data = _read(source, run, tags, ALL_ROWS)
    found = last_written([(datum, tag) for tag in tags for datum in data.get(tag, ())])
    return [
        (datum.step, text) for datum, _ in found for text in np.ravel(datum.numpy).tolist() if isinstance(text, bytes)
    ]


def last_written(rows: Iterable[tuple[TensorDatum, str]]) -> list[tuple[TensorDatum, str]]:
    """Return rows in order of step: one that comes later replaces those at its own and at all later steps."""
    kept: list[tuple[TensorDatum, str]] = []
    for row in rows:
        while kept and kept[-1][0].step >= row[0].step:
            kept.pop()
        kept.append(row)
    return kept


def first_steps(last: np.ndarray) -> np.ndarray:
    """Return the first log step that each row stands for: the one after the row before it.

    Nothing is before the first row; it stands for as many steps as the second, if there are so many.
    """
    first = np.empty_like(last)
    first[1:] = last[:-1] + 1
    first[:1] = max(0, 2 * last[0] - last[1] + 1) if len(last) > 1 else last[:1]
    return first


def merged(several: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return all names, in the order of the longest list; those that it lacks at the end."""
    return tuple(dict.fromkeys(name for names in sorted(several, key=len, reverse=True) for name in names))


def _index(name: str, tags: dict[str, Any]) -> RunIndex:
    series: dict[str, Series] = {}
    notes = []
    for tag, found in tags.items():
        try:
            series[tag] = _read_content(found.plugin_content)
        except SchemaError as error:
            notes.append(str(error))
    stamp = tuple(sorted((tag, found.max_step, found.max_wall_time) for tag, found in tags.items()))
    return RunIndex(name, series, max(notes, default=None), stamp)


@lru_cache(maxsize=4096)
def _read_content(data: bytes) -> Series:
    return read_content(data)


def _read(source: Source, run: RunIndex, tags: Sequence[str], rows: int) -> dict[str, Sequence[TensorDatum]]:
    if not tags:
        return {}
    try:
        return source.read([run.name], tags, rows).get(run.name, {})
    except Exception as error:  # one tensor that is none spoils the whole answer
        raise SchemaError(UNREADABLE) from error


def _is_row(datum: TensorDatum, series: Series, dtype: type[np.floating]) -> bool:
    return bool(datum.numpy.shape == (len(series.names),) and datum.numpy.dtype == dtype)


def _positions(names: tuple[str, ...], among: tuple[str, ...]) -> list[int]:
    where = {name: i for i, name in enumerate(among)}
    return [where[name] for name in names]
