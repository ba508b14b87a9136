"""What the user's own ``configure_gradient_clipping`` makes of good gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from gradwatch import NonFiniteError, NumericalHealthMonitor, load_events
from gradwatch.records import Incident, RunEnd
from tests.integrations.fits import Classifier, fit

if TYPE_CHECKING:
    from pathlib import Path

BAD = 3


class UnitLength(Classifier):
    """Brings gradients to unit length; in one batch it divides by zero."""

    def configure_gradient_clipping(self, *_args: Any, **_kwargs: Any) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(parameter.grad.norm() * (self.batch_idx != BAD))


def test_what_it_spoils_does_not_reach_the_weights(tmp_path: Path) -> None:
    module = UnitLength()
    fit(tmp_path, module, NumericalHealthMonitor(dirpath=tmp_path, on_nonfinite="skip"), max_epochs=1)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    events = list(load_events(tmp_path))
    (incident,) = [event for event in events if isinstance(event, Incident)]
    assert (incident.batch_idx, incident.action, incident.origin.phase, incident.origin.op) == (
        BAD,
        "skipped",
        "backward",
        "div",
    )
    assert incident.origin.source is not None
    assert "parameter.grad.div_" in incident.origin.source.code
    (end,) = [event for event in events if isinstance(event, RunEnd)]
    assert end.skipped_steps == 1
    assert end.steps == module.trainer.global_step


def test_it_ends_the_run_where_that_was_asked_for(tmp_path: Path) -> None:
    module = UnitLength()
    monitor = NumericalHealthMonitor(dirpath=tmp_path)
    fit(tmp_path, module, monitor, max_epochs=1, expect=NonFiniteError)
    assert all(parameter.isfinite().all() for parameter in module.parameters())


class Unlabelled(Classifier):
    """Reads further data in its step, from an iterator that nobody can rewind."""

    def __init__(self) -> None:
        super().__init__(fault=lambda _module, loss, batch: loss * (torch.nan if batch == BAD else 1.0))
        numbers: Any = [float(i) for i in range(100)]
        self.further = iter(torch.utils.data.DataLoader(numbers))
        self.read: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.read.append(next(self.further).item())
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore")
def test_a_replay_does_not_read_on_in_the_data(tmp_path: Path) -> None:
    module = Unlabelled()
    fit(tmp_path, module, NumericalHealthMonitor(dirpath=tmp_path, on_nonfinite="skip"), max_epochs=1)
    assert module.read == [float(i) for i in range(len(module.read))]
    (incident,) = [event for event in load_events(tmp_path) if isinstance(event, Incident)]
    assert incident.origin.phase == "not_reproduced"
    assert "cannot be rewound" in incident.explanation
