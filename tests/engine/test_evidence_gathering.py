from __future__ import annotations

import math
from array import array

import pytest
import torch
from torch import nn

from gradwatch.capture.gradients import read_gradients
from gradwatch.capture.history import History, StepRow
from gradwatch.capture.parameters import group_parameters
from gradwatch.capture.state_scan import Birth
from gradwatch.capture.window import StepWindow
from gradwatch.diagnosis.evidence import Evidence
from gradwatch.engine.evidence_gathering import (
    evidence_of_batch,
    evidence_of_state,
    evidence_of_step,
    spelled,
)

NAN = (1, 0, 0)


def history_of(*rows: list[float]) -> History:
    history = History()
    for norms in rows:
        history.add(StepRow(0, 0, 0, 1.0, 1.0, 1.0), array("d", norms))
    return history


def test_a_bad_batch_is_summarised() -> None:
    x = torch.tensor([[1.0, math.nan, -3.0], [0.0, math.inf, 2.0]])
    ((name, summary),) = evidence_of_batch({"x": x, "y": torch.ones(2)})
    assert name == "batch['x']"
    assert (summary.shape, summary.dtype, summary.min, summary.max) == ((2, 3), "float32", -3.0, 2.0)
    assert (summary.nan, summary.posinf, summary.neginf, summary.zeros) == (1, 1, 0, 1)


def test_gradients_are_named_also_where_some_are_missing() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    group = group_parameters(module, [torch.optim.SGD(module.parameters(), lr=0.1)])[0]
    module[0].bias.grad = torch.ones(1)
    module[1].weight.grad = torch.full((1, 1), math.nan)
    window: StepWindow[None] = StepWindow()
    window.begin(None, None)
    window.observe(torch.tensor(math.inf))
    window.take([math.inf])
    found = evidence_of_step(group, read_gradients(group), window, Evidence(buffers=["b"]))
    assert (found.gradients, found.gradients_read) == (["1.weight"], 2)
    assert (found.losses, found.buffers) == (["+inf"], ["b"])


@pytest.mark.parametrize("own_state", [True, False])
def test_a_weight_whose_state_is_bad_is_the_optimizers(*, own_state: bool) -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    groups = group_parameters(module, [torch.optim.Adam(module.parameters())])
    state = "0.weight.exp_avg" if own_state else "1.weight.exp_avg"
    births = [Birth("parameter", "0.weight", NAN), Birth("optimizer", state, NAN), Birth("buffer", "b", NAN)]
    evidence = evidence_of_state(births, groups, [History()])
    assert evidence.optimizer == (["0.weight", state] if own_state else [state])
    assert evidence.parameters == ([] if own_state else ["0.weight"])
    assert evidence.buffers == ["b"]


@pytest.mark.parametrize(
    ("rows", "blamed"),
    [
        ([[3.0, 1e3]], True),
        ([[3.0, 1e3], [math.nan, math.nan]], True),  # the bad step comes after the one that did it
        ([[3.0, 0.0]], False),
        ([], False),  # it has never stepped
        ([[1e3]], False),  # from before it was given more parameters
    ],
    ids=["last", "before-the-bad-one", "none", "no-step", "outdated"],
)
def test_the_norm_of_the_step_that_moved_the_weight_counts(rows: list[list[float]], *, blamed: bool) -> None:
    """A rate of 1e38 overflows float32 with a gradient of 1000, not with none."""
    module = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = 1e38
    groups = group_parameters(module, [optimizer])
    evidence = evidence_of_state([Birth("parameter", "bias", NAN)], groups, [history_of(*rows)])
    assert (evidence.optimizer == ["bias"]) == blamed
    assert (evidence.parameters == ["bias"]) != blamed


def test_a_weight_that_no_optimizer_steps_is_nobodys() -> None:
    groups = group_parameters(nn.Linear(1, 1), [])
    assert evidence_of_state([Birth("parameter", "weight", NAN)], groups, []).parameters == ["weight"]


@pytest.mark.parametrize(("value", "text"), [(math.nan, "NaN"), (math.inf, "+inf"), (-math.inf, "-inf")])
def test_values_are_spelled_as_people_write_them(value: float, text: str) -> None:
    assert spelled(value) == text
