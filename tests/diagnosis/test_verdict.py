from __future__ import annotations

import pytest
import torch

from gradwatch.diagnosis.memory import Leaf, LeafKind, Special
from gradwatch.diagnosis.responsibility import Explanation
from gradwatch.diagnosis.summary import summary_of
from gradwatch.diagnosis.trace import Identity, Record
from gradwatch.diagnosis.verdict import Traced, guilty_samples, origin_of_leaf, origin_of_record
from gradwatch.tracing.module_stack import Location
from gradwatch.tracing.source import Place


def leaf(kind: LeafKind, name: str | None, *rows: int, shape: tuple[int, ...] = (8, 2)) -> Leaf:
    index = [rows[0], 1] if rows else None
    return Leaf(kind, name, Special(nan=True), False, summary_of(torch.zeros(shape)), index, list(rows))


def record(*rows: int, extent: int | None = 8) -> Record:
    identity = Identity("log", Location("net.head", "Head"), Place("/nowhere/train.py", 3, "step"))
    made = Record(1, identity, Special(posinf=True), of_infinity=Explanation(transition="finite->inf"))
    made.bad_rows, made.rows, made.bad_index = list(rows), extent, [rows[0], 0] if rows else None
    made.inputs, made.output = [summary_of(torch.ones(2))], summary_of(torch.zeros(2))
    return made


@pytest.mark.parametrize(
    ("kind", "name", "phase", "module"),
    [
        ("batch", "batch[0]", "input", None),
        ("parameter", "net.head.weight", "parameter", "net.head"),
        ("parameter", "scale", "parameter", ""),
        ("buffer", "norm.running_var", "buffer", "norm"),
        ("unknown", None, "input", None),
    ],
)
def test_what_was_bad_before_the_step_is_named(
    kind: LeafKind, name: str | None, phase: str, module: str | None
) -> None:
    origin = origin_of_leaf(leaf(kind, name, 2), [0])
    assert (origin.phase, origin.tensor, origin.module) == (phase, name, module)
    assert (origin.index, origin.ranks, len(origin.inputs)) == ([2, 1], [0], 1)
    assert origin.op is None
    assert origin.transition is None


def test_a_row_of_a_batch_tensor_is_a_sample_and_one_of_a_weight_is_not() -> None:
    assert guilty_samples(leaf("batch", "batch", 3), 8) == {3}
    assert guilty_samples(leaf("parameter", "w", 3), 8) == frozenset()
    assert guilty_samples(None, 8) == frozenset()


def test_the_first_of_the_samples_is_named() -> None:
    samples = frozenset({5, 3})
    assert origin_of_leaf(leaf("batch", "batch", 3, 5), [0], samples).sample == 3
    assert origin_of_record(record(3, 5), [0], samples, loss_is_bad=True).sample == 3
    assert origin_of_leaf(leaf("batch", "batch", 3), [0]).sample is None
    assert origin_of_record(record(3), [0], loss_is_bad=True).sample is None


@pytest.mark.parametrize(("loss_is_bad", "phase"), [(True, "forward"), (False, "backward")])
def test_a_birth_is_one_of_the_forward_where_the_loss_shows_it(phase: str, *, loss_is_bad: bool) -> None:
    origin = origin_of_record(record(1), [2], loss_is_bad=loss_is_bad)
    assert (origin.phase, origin.op, origin.transition) == (phase, "log", "finite->inf")
    assert (origin.module, origin.module_type, origin.ranks) == ("net.head", "Head", [2])
    assert origin.source is not None
    assert (origin.source.file, origin.source.line, origin.source.function) == ("/nowhere/train.py", 3, "step")
    assert (len(origin.inputs), origin.output is not None, origin.index) == (1, True, [1, 0])


def test_a_birth_without_a_line_has_no_source() -> None:
    made = record(1)
    made.identity = made.identity._replace(place=None)
    assert origin_of_record(made, [0], loss_is_bad=True).source is None


@pytest.mark.parametrize(
    ("rows", "extent", "batch_size", "samples"),
    [
        ([5], 8, 8, {5}),
        ([5, 7], 8, 8, {5, 7}),
        ([6, 7], 16, 8, {3}),  # two heads a sample, all of one
        ([6], 16, 8, set()),  # one head of it: a row need not be a sample's
        ([4, 5, 6, 7], 16, 8, {2, 3}),
        ([5], 9, 8, set()),
        ([5], 6, 8, set()),
        ([], 8, 8, set()),
        (list(range(8)), 8, 8, set()),  # all of them are no one's fault
        ([5], None, 8, set()),
        ([5], 8, None, set()),
        ([0], 8, 0, set()),
    ],
)
def test_rows_point_to_samples_where_they_are_the_batchs(
    rows: list[int], extent: int | None, batch_size: int | None, samples: set[int]
) -> None:
    assert guilty_samples(record(*rows, extent=extent), batch_size) == samples


def test_a_value_is_another_ranks_where_a_collective_brought_it() -> None:
    received = record(1)
    assert not Traced(received).is_remote
    received.collective = True
    assert Traced(received).is_remote
    assert not Traced(leaf("batch", "batch")).is_remote
    assert not Traced().is_remote
