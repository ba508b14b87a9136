"""One training of a case, and all that it left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch

from tests.cases import Case, Trained, train
from tests.noninterference.fingerprint import Fingerprint, checkpoint_fingerprint, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Outcome(NamedTuple):
    """The end of a run: its fingerprint with that of its checkpoint files, what was written, what failed quietly."""

    fingerprint: Fingerprint
    events: list[dict[str, Any]]
    failures: list[str]

    def of_type(self, name: str) -> list[dict[str, Any]]:
        """Return the events of one type."""
        return [event for event in self.events if event["type"] == name]


def run(
    case: Case,
    root: Path,
    callbacks: Callable[[], Sequence[Any]] = tuple,
    package: Any = lightning.pytorch,
    **overrides: Any,
) -> Outcome:
    """Train ``case`` to its end, with a CSV logger unless told otherwise, then read the run and what it wrote.

    Raises:
        Exception: Whatever ended the training early.
    """
    settings = {"logger": package.loggers.CSVLogger(root, name="csv", version=0), "log_every_n_steps": 2, **overrides}
    trained = train(case, root, callbacks, package=package, **settings)
    if trained.error is not None:
        raise trained.error
    return outcome_of(trained, root)


def outcome_of(trained: Trained, root: Path) -> Outcome:
    """Read a run that has ended, early or not, and what it wrote below ``root``."""
    found = fingerprint(trained.trainer, trained.module)
    trained.trainer.save_checkpoint(root / "end.ckpt")
    for path in sorted(root.rglob("*.ckpt")):
        saved = checkpoint_fingerprint(path)
        found |= {_without(root, f"{path}/{name}"): _without(root, value) for name, value in saved.items()}
    return Outcome(found, read_events(root), trained.failures)


def _without(root: Path, value: Any) -> Any:
    """Leave out the folder of the run, which checkpoint callbacks keep in their state."""
    return value.replace(str(root), "") if isinstance(value, str) else value


def read_events(root: Path) -> list[dict[str, Any]]:
    """Read every line of every event log below ``root``."""
    lines = [line for path in sorted(root.rglob("events*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]
