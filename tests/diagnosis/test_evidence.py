from __future__ import annotations

from typing import Any

import pytest

from gradwatch.diagnosis.evidence import PHASES, Evidence, affected, first_seen, origin_of
from gradwatch.diagnosis.memory import Leaf, Special
from gradwatch.diagnosis.responsibility import Explanation
from gradwatch.diagnosis.trace import Identity, Record
from gradwatch.diagnosis.verdict import Traced
from gradwatch.records import TensorSummary
from gradwatch.tracing.module_stack import Location

SUMMARY = TensorSummary(shape=(2, 3), dtype="float32", min=0.0, max=1.0, nan=1, posinf=0, neginf=0, zeros=2)
ALL: dict[str, Any] = {
    "optimizer": ["head.weight.exp_avg"],
    "parameters": ["body.weight", "head.bias"],
    "batch": [("batch['x']", SUMMARY)],
    "buffers": ["norm.running_mean"],
    "losses": ["NaN"],
    "gradients": ["body.weight", "body.bias"],
}
# What was there before the step goes before what the step made of it.
ORDER = ["optimizer", "parameters", "batch", "buffers", "losses", "gradients"]
SEEN = ["optimizer", "parameter", "batch", "buffer", "loss", "gradient"]


def evidence(*names: str) -> Evidence:
    return Evidence(**{name: ALL[name] for name in names}, gradients_read=4)


@pytest.mark.parametrize("place", range(6))
def test_the_earliest_kind_wins_over_all_that_follow(place: int) -> None:
    assert first_seen(evidence(*ORDER[place:])) == SEEN[place]
    assert first_seen(evidence(ORDER[place])) == SEEN[place]


def test_gradients_are_what_is_left() -> None:
    assert first_seen(evidence()) == "gradient"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (ORDER, ["head.weight.exp_avg"]),
        (ORDER[1:], ["body.weight", "head.bias"]),
        (ORDER[2:], ["body.weight", "body.bias"]),  # of a bad batch, the layers that it reached
        (ORDER[3:], ["norm.running_mean"]),
        (ORDER[4:], ["body.weight", "body.bias"]),
        (["losses"], []),
    ],
    ids=["optimizer", "parameter", "batch", "buffer", "loss", "loss-only"],
)
def test_affected(names: list[str], expected: list[str]) -> None:
    assert affected(evidence(*names)) == expected


@pytest.mark.parametrize("place", range(6))
def test_origin(place: int) -> None:
    origin = origin_of(evidence(*ORDER[place:]), [1])
    seen = SEEN[place]
    assert origin.phase == PHASES[first_seen(evidence(ORDER[place]))]
    assert origin.ranks == [1]
    assert (origin.tensor, origin.module) == {
        "optimizer": ("head.weight.exp_avg", None),
        "parameter": ("body.weight", "body"),
        "buffer": ("norm.running_mean", "norm"),
        "batch": ("batch['x']", None),
    }.get(seen, (None, None))
    assert origin.inputs == ([SUMMARY] if seen == "batch" else [])


@pytest.mark.parametrize(
    ("names", "tensor"),
    [
        (["charge", "charge.momentum_buffer"], "charge"),
        (["charge", "charge.exp_avg", "charge.exp_avg_sq"], "charge"),
        (["charge", "charged.exp_avg"], None),
        (["body.weight", "head.weight", "head.weight.exp_avg"], None),
    ],
)
def test_one_parameter_that_its_optimizer_has_spoilt_is_named(names: list[str], tensor: str | None) -> None:
    assert origin_of(Evidence(optimizer=names), [0]).tensor == tensor


def test_a_parameter_of_the_root_module_has_the_empty_module_name() -> None:
    assert origin_of(Evidence(parameters=["weight"]), []).module == ""


@pytest.mark.parametrize("name", ORDER)
def test_gradients_alone_may_have_come_from_another_rank(name: str) -> None:
    assert evidence(name).is_local == (name != "gradients")


LEAF = Leaf("batch", "batch['x']", Special(nan=True), False, SUMMARY, [1, 0], [1])
RECORD = Record(
    7,
    Identity("log", Location("head", "Head"), None),
    Special(neginf=True),
    of_infinity=Explanation(transition="finite->inf"),
)


@pytest.mark.parametrize("root", [LEAF, RECORD], ids=["batch", "operation"])
@pytest.mark.parametrize(("samples", "named"), [(frozenset({3, 1}), 1), (frozenset(), None)])
def test_the_samples_that_the_replay_has_proved_are_named(
    root: Any, samples: frozenset[int], named: int | None
) -> None:
    """The rows of a birth alone do not say it."""
    traced = Traced(root, samples=samples, is_bad=True, loss_is_bad=True)
    origin = origin_of(Evidence(losses=["NaN"], traced=traced), [0])
    assert origin.sample == named
    assert origin.phase == ("input" if root is LEAF else "forward")
