"""A training that meets a NaN under the monitor, with the replay of the bad step or without it."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch
import pytest

from gradwatch import NonFiniteError, NumericalHealthMonitor
from gradwatch.engine.replay import Replayer
from gradwatch.integrations import run_context
from gradwatch.integrations.pytorch_lightning import NumericalHealthMonitor as NumericalHealthMonitorForPL
from tests.cases import Case, train
from tests.noninterference.fingerprint import Fingerprint, differences
from tests.noninterference.runs import outcome_of
from tests.noninterference.witness import Witness, attributes, logged

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.diagnosis.verdict import Traced

MONITORS = {"lightning.pytorch": NumericalHealthMonitor, "pytorch_lightning": NumericalHealthMonitorForPL}


class Trial(NamedTuple):
    """What a training went through and left, its incidents, and what its replays have found."""

    fingerprint: Fingerprint
    incidents: list[dict[str, Any]]
    replays: list[Traced]
    failures: list[str]


def trial(
    case: Case,
    root: Path,
    mode: str = "skip",
    *,
    replay: bool,
    package: Any = lightning.pytorch,
    **overrides: Any,
) -> Trial:
    """Train ``case`` under the monitor.

    Raises:
        Exception: what ended the training early, unless it was the monitor's own verdict.
    """
    replays, printed = list[Any](), io.StringIO()
    attempt = Replayer._attempt
    monitor: Any = MONITORS[package.__name__]
    witness: Any = type("Witness", (Witness, package.Callback), {})()

    def noted(*args: Any, **kwargs: Any) -> Traced:
        replays.append(attempt(*args, **kwargs))
        return replays[-1]

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(Replayer, "_attempt", noted)
        if not replay:
            patch.setattr(run_context, "LightningStep", lambda _trainer: None)
        trained = train(
            case,
            root,
            lambda: [monitor(clip=None, on_nonfinite=mode), witness],
            package=package,
            logger=package.loggers.CSVLogger(root, name="csv", version=0),
            log_every_n_steps=2,
            **overrides,
        )
    if trained.error is not None and not isinstance(trained.error, NonFiniteError):
        raise trained.error
    outcome = outcome_of(trained, root)
    found = outcome.fingerprint | witness.seen | attributes(trained.module) | logged(root)
    found |= {"printed": printed.getvalue(), "error": type(trained.error).__name__}
    return Trial(found, outcome.of_type("incident"), replays, outcome.failures)


def unnoticed(case: Case, root: Path, mode: str = "skip", **overrides: Any) -> Trial:
    """Fail unless the replay of the bad step has found its cause and training cannot tell; return the trial."""
    replayed = compared(case, root, mode, **overrides)
    assert any(traced.root is not None for traced in replayed.replays), replayed.replays
    assert [incident["reproduced"] for incident in replayed.incidents[:1]] == [True]
    return replayed


def compared(case: Case, root: Path, mode: str = "skip", **overrides: Any) -> Trial:
    """Fail unless the trial with the replay, which is returned, ends like the one without it."""
    without = trial(case, root / "without", mode, replay=False, **overrides)
    replayed = trial(case, root / "with", mode, replay=True, **overrides)
    changed = differences(without.fingerprint, replayed.fingerprint)
    assert not changed, "\n".join([f"{len(changed)} differences", *changed[:10]])
    assert without.replays == []
    assert replayed.replays
    assert without.failures == replayed.failures
    assert len(without.incidents) == len(replayed.incidents)
    return replayed
