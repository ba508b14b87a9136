"""The flight recorder: the last steps at full rate, in a file of their own at once and in the log when it matters."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from array import array
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from gradwatch.capture.history import RING_STEPS
from gradwatch.capture.host_norms import as_array
from gradwatch.serialization import ring_of
from gradwatch.serialization.ring_layout import NO_GRADIENT, Columns, Header, Row, as_event
from gradwatch.sinks.ring import Ring, TooSlowError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gradwatch.capture.history import History, Source, StepRow
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.engine.watched import Watched
    from gradwatch.records import Event, Finding, LastSteps

log = logging.getLogger("gradwatch")

# So many incidents have their last steps written each; a run that survives more has them every 64 steps at most.
WHOLE_INCIDENTS = 20
# Writing takes 0.1 ms between the kernels of a step, where all of its code is cold. So steps that follow each other
# within QUICK seconds wait for others, for PATIENCE seconds and AT_ONCE at most: of a process that is killed, or hangs
# first, the newest of them may be missing. Where steps take longer, none is.
QUICK, PATIENCE, AT_ONCE = 0.01, 0.03, 32
DIGITS = 7  # of the layers' norms in the log: as many as float32 has, at two thirds of the size


class FlightRecorder:
    """Keeps the last steps of each optimizer.

    The ring file is opened once the event log beside it has a name. It fails in silence but for one line: a full disk
    or a slow file system costs the last steps of a killed process, and nothing else.

    Args:
        watched: whose histories have the steps.
        rank: of this process.
    """

    def __init__(self, watched: Watched, rank: int) -> None:
        self._watched, self._rank = watched, rank
        self._ring: Ring | None = None
        self._path: Path | None = None
        self._run_id = ""
        self._groups: list[ParameterGroup] = []
        self._waiting: dict[int, list[float]] = {}  # when the steps of each optimizer that wait were taken
        self._taken_at: dict[int, float] = {}  # the newest step of each optimizer
        self._written_at = 0.0
        self._told_at: dict[int, int] = {}
        self._incidents = 0

    def __reduce__(self) -> tuple[type[FlightRecorder], tuple[Watched, int]]:
        """A copy writes no file: that one belongs to the process that has opened it."""
        return FlightRecorder, (self._watched, self._rank)

    # -- the file -----------------------------------------------------------------------------------------------

    def open(self, event_log: Path, run_id: str) -> None:
        """Begin the ring file beside an event log; a second call moves to another log."""
        self.close(remove=False)
        self._path, self._run_id = ring_of(event_log), run_id
        self._begin()

    def add(self, optimizer: int) -> None:
        """Write the newest step of an optimizer: at once, or together with others if they follow each other quickly."""
        if self._ring is None:
            return
        now, waiting = time.time(), self._waiting.setdefault(optimizer, [])
        is_quick = 0 <= now - self._taken_at.get(optimizer, 0.0) < QUICK
        self._taken_at[optimizer] = now
        waiting.append(now)
        if not (is_quick and 0 <= now - self._written_at < PATIENCE) or len(waiting) >= AT_ONCE:
            self._written_at = now
            self.flush()

    def flush(self) -> None:
        """Write the steps that wait: nothing may be left behind where a run rests, as it does around validation."""
        waiting, self._waiting = self._waiting, {}
        if not waiting or self._ring is None or not self._ring.is_ours():
            return
        try:
            if self._watched.groups is not self._groups and not self._fits():
                self._begin()  # these steps included
            else:
                for optimizer, times in waiting.items():
                    self._ring.write(optimizer, _newest(self._watched.histories[optimizer], times))
        except Exception as error:  # noqa: BLE001 - whatever it is, the training run goes on
            self._give_up(error)

    def check(self) -> None:
        """Begin the file anew if somebody has removed it or cut it off; called on log steps."""
        self.flush()
        if self._ring is not None and self._ring.is_ours() and not self._ring.is_whole():
            self._begin()

    def close(self, *, remove: bool) -> None:
        """Close the file, and remove it once the log says how the run ended."""
        if not remove:
            self.flush()
        self._waiting = {}
        ring, self._ring = self._ring, None
        if ring is not None:
            try:
                ring.remove() if remove else ring.close()
            except OSError as error:
                log.debug("gradwatch: %s could not be closed: %s", ring.path, error)

    def _begin(self) -> None:
        """Write the file as a whole, with the steps that are known."""
        assert self._path is not None  # noqa: S101 - open came before
        self._waiting = {}  # the histories have them
        self.close(remove=False)
        self._groups = self._watched.groups
        columns = [_columns(group) for group in self._groups]
        header = Header(self._run_id, self._rank, os.getpid(), columns)
        try:
            self._ring = Ring(self._path, header, [list(self._rows(group)) for group in self._groups])
        except Exception as error:  # noqa: BLE001 - as in add
            self._give_up(error)

    def _fits(self) -> bool:
        """Whether the parameters are those of the header, although they have been read anew."""
        before, self._groups = self._groups, self._watched.groups
        return [(group.names, group.layers) for group in before] == [
            (group.names, group.layers) for group in self._groups
        ]

    def _give_up(self, error: Exception) -> None:
        slow = isinstance(error, TooSlowError)
        self.close(remove=slow)
        log.log(
            logging.INFO if slow else logging.WARNING,
            "gradwatch: the last steps before a kill will not be kept in %s: %s. Training goes on.",
            str(self._path).encode(errors="backslashreplace").decode(),
            str(error) or type(error).__name__,
        )

    # -- events -------------------------------------------------------------------------------------------------

    def at_finding(self, finding: Finding) -> list[LastSteps]:
        """Return the last steps of each optimizer of which no event has any; none for mere information."""
        if finding.status != "opened" or finding.severity == "info":
            return []
        return self._events(finding, f"finding {finding.code}", apart=True)

    def at_incident(self, incident: Event) -> list[LastSteps]:
        """Return the last steps of each optimizer; after many incidents only those of which no event has any."""
        self._incidents += 1
        return self._events(incident, "incident", apart=self._incidents > WHOLE_INCIDENTS)

    def at_end(self, end: Event) -> list[LastSteps]:
        """Return the last steps of each optimizer."""
        return self._events(end, "end", apart=False)

    def _events(self, event: Event, reason: str, *, apart: bool) -> list[LastSteps]:
        """Return an event for each optimizer that has stepped; ``apart``: and shares no step with its last event."""
        found = []
        for group in self._watched.groups:
            added, told = self._watched.histories[group.index].added, self._told_at.get(group.index)
            if added and not (apart and told is not None and added - told < RING_STEPS):
                self._told_at[group.index] = added
                found.append(self._event(group, event, reason))
        return found

    def _event(self, group: ParameterGroup, event: Event, reason: str) -> LastSteps:
        made = as_event(list(self._rows(group)), _columns(group), rank=self._rank, optimizer=group.index, reason=reason)
        layers = {name: [_rounded(norm) for norm in norms] for name, norms in made.layers.items()}
        place = {name: getattr(event, name) for name in ("time", "step", "epoch", "batch_idx")}
        return dataclasses.replace(made, **place, layers=layers)

    def _rows(self, group: ParameterGroup) -> Iterator[Row]:
        """Yield the kept steps, oldest first, over the parameters that the optimizer has now."""
        history, now = self._watched.histories[group.index], time.time()
        for row, norms, source in _kept(history):
            gaps = _with_gaps(norms, source)
            if source is not None and source.group.names != group.names:
                gaps = _by_name(gaps, source.group.names, group.names)
            yield _row(row, now, gaps)._replace(lr=_rate(row, anywhere=True))


def _kept(history: History) -> Iterator[tuple[StepRow, array[float], Source | None]]:
    return zip(history.rows, history.norms, history.sources, strict=True)


def _newest(history: History, times: Sequence[float]) -> list[Row]:
    """Return the last steps of a history, which were taken at these times."""
    rows, norms, sources = history.rows, history.norms, history.sources
    newest = zip(range(-len(times), 0), times, strict=True)
    return [_row(rows[i], at, _with_gaps(norms[i], sources[i])) for i, at in newest]


def _columns(group: ParameterGroup) -> Columns:
    return Columns(group.names, list(group.layers), group.layer_index.tolist())


def _row(row: StepRow, now: float, norms: array[float]) -> Row:
    return Row(
        now,
        row.step,
        row.epoch,
        row.batch_idx,
        row.loss,
        row.grad_norm,
        row.coefficient,
        _rate(row),
        row.loss_scale,
        row.skipped,
        norms,
    )


def _rate(row: StepRow, *, anywhere: bool = False) -> float | None:
    """Return the rate of the first group; one that lives on a device is None, unless a transfer may be waited for."""
    rate = row.lr[0] if row.lr else None
    if rate is None or type(rate) is float or (isinstance(rate, Tensor) and not (rate.is_cpu or anywhere)):
        return rate if type(rate) is float else None
    try:
        return float(rate)
    except (TypeError, ValueError, RuntimeError):
        return None


def _with_gaps(norms: array[float], source: Source | None) -> array[float]:
    """Return the norms by parameter, ``NO_GRADIENT`` where there was none."""
    if source is None or source.positions is None:
        return norms
    marked = np.full(len(norms), NO_GRADIENT)
    marked[source.positions] = np.asarray(norms)[source.positions]
    return as_array(marked)


def _by_name(norms: array[float], before: list[str], names: list[str]) -> array[float]:
    """Return the norms in the order of other names; a parameter that was not there had no gradient."""
    known = dict(zip(before, norms, strict=True))
    return array("d", [known.get(name, NO_GRADIENT) for name in names])


def _rounded(norm: float | None) -> float | None:
    return None if norm is None else float(f"{norm:.{DIGITS}g}")
