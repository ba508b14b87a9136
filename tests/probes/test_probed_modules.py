"""Every LightningModule trained under gradient checks: the verdict is right, and training does not notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch

from gradwatch import NumericalHealthMonitor, load_events
from gradwatch.probes.check import GradientProbe
from gradwatch.records import Finding, GradientCheck
from tests.noninterference.fingerprint import Bits, Fingerprint, differences, fingerprint
from tests.probes.lightning_modules import PROBED
from tests.probes.probed import bits
from tests.probes.training import train
from tests.probes.wrong_backward import marked_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gradwatch.records import Event
    from tests.probes.probed import Probed

CHECKED = 2  # every second of them
HALF = frozenset({"bf16-mixed", "16-mixed", "bf16-true", "16-true"})

CASES = [pytest.param(case, id=case.name) for case in PROBED]
# Those with tensors that differ from the rest; the others as well in the long runs.
DIFFERING = [pytest.param(c, id=c.name, marks=[] if c.single else [pytest.mark.long]) for c in PROBED]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Fit(NamedTuple):
    """A training that has ended."""

    fingerprint: Fingerprint
    events: list[Event]

    @property
    def checks(self) -> list[GradientCheck]:
        return [event for event in self.events if isinstance(event, GradientCheck)]

    @property
    def findings(self) -> list[Finding]:
        return [event for event in self.events if isinstance(event, Finding)]


def fit(case: Probed, folder: Path, *monitors: Any) -> Fit:
    """Train for four steps from the same seeds."""
    trainer, module = train(case, folder, *monitors)
    events = load_events(folder / "gradwatch") if monitors else []
    hidden = {f"hidden/{name}": Bits.of(value) for name, value in bits(module).items()}
    return Fit(fingerprint(trainer, module) | hidden, events)


def monitor() -> NumericalHealthMonitor:
    return NumericalHealthMonitor(clip=None, gradient_check_every_n_steps=CHECKED)


def named_lines(check: GradientCheck) -> set[tuple[str, int]]:
    """Return the lines that a check names as stopping gradients, or as wrong."""
    sources = [explanation.source for explanation in check.explanations]
    sources += [check.culprit.source] if check.culprit else []
    return {(source.file, source.line) for source in sources if source is not None}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_right_and_training_does_not_notice(case: Probed, tmp_path: Path) -> None:
    plain, watched = fit(case, tmp_path / "plain"), fit(case, tmp_path / "watched", monitor())
    if case.repeatable:
        assert differences(plain.fingerprint, watched.fingerprint) == []
    assert [check.step for check in watched.checks] == [1, 3]
    stops = {(str(path), line) for path, line in (marked_lines("stops")[stop] for stop in case.stops)}
    for check in watched.checks:
        assert check.verdict in case.expected, check.reason
        assert stops <= named_lines(check)
    if case.trainer.get("precision") not in HALF:
        assert "precision-gap" not in {finding.code for finding in watched.findings}


@pytest.fixture
def _every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask all tensors at each check, where a run asks them in turn."""
    run = GradientProbe.run
    monkeypatch.setattr(GradientProbe, "run", lambda probe, request: run(probe, request._replace(each=None)))


@pytest.mark.usefixtures("_every_tensor")
@pytest.mark.parametrize("case", DIFFERING)
def test_the_verdict_on_each_tensor_is_right(case: Probed, tmp_path: Path) -> None:
    for check in fit(case, tmp_path, monitor()).checks:
        assert check.verdict in case.expected, check.reason
        for name, found in check.parameters.items():
            if found.relative_error is not None:  # else it was not asked by itself
                assert found.correct in case.single.get(name, case.expected | {"pass", "not_resolvable"}), name
