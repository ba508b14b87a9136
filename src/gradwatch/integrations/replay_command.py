"""``gradwatch replay``: the failing step of an incident once more, in a process of its own."""

from __future__ import annotations

import os
import pdb  # noqa: T100 - the option --pdb
import sys
import warnings
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from gradwatch.diagnosis.evidence import Evidence
from gradwatch.diagnosis.memory import Leaf
from gradwatch.diagnosis.trace import StopAtBirth
from gradwatch.engine.incident_bundle import failure_of
from gradwatch.engine.incidents import retold
from gradwatch.engine.replay import Replayer
from gradwatch.integrations.making import RebuildError, one_line
from gradwatch.integrations.rebuild import rebuild
from gradwatch.replica.batches import copy_batch
from gradwatch.replica.bundle import INDEX, load
from gradwatch.serialization import load_incident
from gradwatch.sinks.console import format_incident

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from gradwatch.diagnosis.trace import Identity
    from gradwatch.diagnosis.verdict import Traced
    from gradwatch.engine.failure import Failure
    from gradwatch.records import Incident, Origin
    from gradwatch.tracing.source import Place

_FOUND_BY_SCANS = ("parameter", "buffer", "optimizer")


def replay(console: Console, directory: Path, *, factory: str | None, device: str | None, debug: bool) -> bool:
    """Replay an incident and print the verdict; return whether it is the recorded one.

    Args:
        console: where to print.
        directory: the incident's folder.
        factory: ``package.module:function`` that returns the module.
        device: where to run; the CPU by default.
        debug: stop at the birth in the debugger.

    Raises:
        ValueError: the folder cannot be read, or the step not be run again; the message is one line.
        OSError: likewise.
    """
    warnings.simplefilter("ignore")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as `python -m` does: the user's modules are there
    incident = load_incident(directory)
    if not (directory / INDEX).exists():
        raise RebuildError(f"{directory} holds no {INDEX}: {_why_no_step(incident)}")
    bundle = load(directory)
    for note in bundle.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    target = _device(device)
    rebuilt = rebuild(bundle, factory=factory, device=target)
    failure = failure_of(bundle)
    failure = failure._replace(moments=[m._replace(batch=copy_batch(m.batch, to=target)) for m in failure.moments])
    replayer = Replayer(rebuilt.module, rebuilt.optimizers, rebuilt.runner)
    traced = replayer.trace(failure)
    if traced.reason is not None:
        raise RebuildError(f"the step could not be replayed: {traced.reason}")
    if traced.root is None:
        console.print(_finite(incident), markup=False, soft_wrap=True)
        return False
    again = _told_again(incident, traced)
    console.print(format_incident(again, None), markup=False, soft_wrap=True)
    same = _is_same(incident.origin, again.origin)
    verdict = "The verdict is the one recorded." if same else f"Recorded was: {_short(incident.origin)}"
    console.print(verdict, markup=False, soft_wrap=True)
    if debug:
        _debug(console, replayer, failure, traced)
    return same


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or "cpu")
        torch.zeros(1, device=device).item()  # the device "meta" has no values to look at
    except Exception as error:
        raise RebuildError(f"--device {name} cannot be used here: {one_line(error)}") from error
    return device


def _told_again(incident: Incident, traced: Traced) -> Incident:
    """Return the incident with what this replay has found."""
    evidence = Evidence(
        optimizer=incident.affected if incident.origin.phase == "optimizer" else [],
        losses=list(traced.losses),
        gradients=[""] * traced.bad_gradients,
        gradients_read=traced.gradients,
        traced=traced,
    )
    return retold(incident, evidence)


def _is_same(recorded: Origin, found: Origin) -> bool:
    """Compare what does not depend on the machine: a file may lie elsewhere."""
    return _place(recorded) == _place(found)


def _place(origin: Origin) -> tuple[object, ...]:
    if origin.phase == "optimizer":  # its operation was found by repeating the update, which is no part of the step
        return (origin.phase, origin.tensor)
    source = origin.source
    line = None if source is None else (source.line, source.function, source.code)
    return (origin.phase, origin.op, origin.module, origin.tensor if origin.op is None else None, line)


def _short(origin: Origin) -> str:
    source = origin.source
    where = f" at {source.file}:{source.line}" if source else ""
    return f"{origin.phase} {origin.op or origin.tensor or ''} in {origin.module!r}{where}"


def _why_no_step(incident: Incident) -> str:
    ranks = incident.origin.ranks
    if ranks and incident.rank not in ranks:
        return f"the value was born on rank {ranks[0]}, whose own folder replays it"
    if incident.first_seen in _FOUND_BY_SCANS:
        return f"a non-finite {incident.first_seen} was found between two steps, and there is no step to run again"
    return "nothing was saved to run the step again (a hand-written loop gives start(..., loss_function=...))"


def _finite(incident: Incident) -> str:
    recorded = "" if incident.reproduced else " It did not in the run either."
    return (
        "The step came out finite, twice: what went wrong does not follow from batch, weights and random states alone"
        f" (another device, library version, a race, or a side effect outside the step).{recorded}"
    )


def _debug(console: Console, replayer: Replayer, failure: Failure, traced: Traced) -> None:
    root = traced.root
    if root is None or isinstance(root, Leaf):
        console.print("The value was there before the step: there is no operation to stop at.", markup=False)
        return
    try:
        replayer.stop_at(failure, root.index)
    except StopAtBirth as stopped:
        console.print(_stopped_at(root.identity), markup=False, soft_wrap=True)
        debugger = pdb.Pdb()
        debugger.reset()
        debugger.interaction(None, _shortened(stopped.__traceback__, root.identity.place))
    else:
        console.print("The operation was not reached again.", markup=False)


def _stopped_at(identity: Identity) -> str:
    place = identity.place
    line = f"{place.file}:{place.line}" if place else "unknown"
    if identity.derivative:
        return (
            f"Stopped in the derivative of {identity.op}. Here are `inputs` and `output`; its forward line is {line}."
        )
    return f"Stopped at {identity.op}. Here are `inputs` and `output`; `up` leads to your own line, {line}."


def _shortened(traceback: TracebackType | None, place: Place | None) -> TracebackType | None:
    """Leave out the frames between the user's line and the last one, so that one `up` leads there."""
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    own = [i for i, entry in enumerate(frames) if place and entry.tb_frame.f_code.co_filename == place.file]
    kept = [*frames[: own[-1] + 1], frames[-1]] if own and own[-1] < len(frames) - 1 else frames
    for entry in reversed(kept):
        traceback = TracebackType(traceback, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return traceback
