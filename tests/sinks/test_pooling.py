from __future__ import annotations

import json
import math
from functools import reduce
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.records import LayerNorms, StepRecord, Window
from gradwatch.serialization import from_dict, to_json_line
from gradwatch.sinks.pooling import METRICS, can_join, joined, pooled_record, summary_of
from tests.sinks.samples import known, step_record, with_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

NUMBERS = st.none() | st.floats()
COUNTS = st.integers(0, 5)


def as_json(record: StepRecord) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(to_json_line(record))
    return data


def pooled(records: Sequence[StepRecord]) -> StepRecord:
    """The records as one, through JSON and back."""
    summary = reduce(joined, [summary_of(as_json(record)) for record in records])
    text = json.dumps(pooled_record(as_json(records[-1]), summary), allow_nan=False)
    event = from_dict(json.loads(text))
    assert isinstance(event, StepRecord)
    return event


def ranges(values: Iterable[float | None]) -> list[float] | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return [min(finite), max(finite)] if finite else None


@st.composite
def step_records(draw: Callable[..., Any], step: int = 0) -> StepRecord:
    norms = st.builds(
        LayerNorms,
        grad_norm=NUMBERS,
        weight_norm=NUMBERS,
        update_ratio=NUMBERS,
        nonfinite=COUNTS,
        grad_norm_max=st.none() | st.floats(0, 1e300),
    )
    largest = draw(st.none() | st.floats(0, 1e300))
    window = Window(
        steps=draw(COUNTS),
        grad_norm_max=largest,
        grad_norm_max_step=None if largest is None else step,
        loss_max=draw(st.none() | st.floats(-1e300, 1e300)),
        clipped_steps=draw(COUNTS),
        skipped_steps=draw(COUNTS),
        nonfinite_steps=draw(COUNTS),
    )
    return step_record(
        step=step,
        log_step=step + 1000,
        loss=draw(NUMBERS),
        grad_norm=draw(NUMBERS),
        window=window,
        layers={"a": draw(norms), '"pooled": "': draw(norms)},
    )


@st.composite
def sequences(draw: Callable[..., Any]) -> list[StepRecord]:
    return [draw(step_records(step=step)) for step in range(draw(st.integers(2, 5)))]


@given(sequences())
def test_no_extreme_is_lost(records: list[StepRecord]) -> None:
    found = pooled(records)
    kept = found.pooled
    assert kept is not None
    assert (kept.records, kept.first_step, kept.first_log_step) == (len(records), 0, 1000)
    assert kept.loss == ranges(record.loss for record in records)
    assert kept.grad_norm == ranges(record.grad_norm for record in records)
    for place, layer in enumerate(found.layers):
        for metric in METRICS:
            values = [value for record in records for value in known(record.layers[layer], metric)]
            assert getattr(kept, f"layer_{metric}")[place] == ranges(values)
        assert kept.layer_nonfinite[place] == sum(record.layers[layer].nonfinite for record in records)


@given(sequences())
def test_the_window_covers_all_steps(records: list[StepRecord]) -> None:
    window, parts = pooled(records).window, [record.window for record in records]
    for count in ("steps", "clipped_steps", "skipped_steps", "nonfinite_steps"):
        assert getattr(window, count) == sum(getattr(part, count) for part in parts)
    norms = [(part.grad_norm_max, -(part.grad_norm_max_step or 0)) for part in parts if part.grad_norm_max is not None]
    largest, step = max(norms, default=(None, 0))
    assert window.grad_norm_max == largest
    assert window.grad_norm_max_step == (None if largest is None else -step)  # of equals the first
    assert window.loss_max == max((part.loss_max for part in parts if part.loss_max is not None), default=None)


@given(sequences())
def test_the_rest_is_that_of_the_newest(records: list[StepRecord]) -> None:
    found, last = as_json(pooled(records)), as_json(records[-1])
    assert {**found, "window": 0, "pooled": 0} == {**last, "window": 0, "pooled": 0}


@given(sequences(), st.data())
def test_it_does_not_matter_in_which_order_neighbours_are_joined(records: list[StepRecord], data: Any) -> None:
    at = data.draw(st.integers(1, len(records) - 1))
    parts = [part[0] if len(part) == 1 else pooled(part) for part in (records[:at], records[at:])]
    assert to_json_line(pooled(parts)) == to_json_line(pooled(records))


def test_other_layers_or_another_optimizer_are_not_joined() -> None:
    one = summary_of(as_json(step_record()))
    assert can_join(one, one)
    assert not can_join(one, summary_of(as_json(step_record(count=3))))
    assert not can_join(one, summary_of(as_json(step_record(optimizer=1))))
    renamed = step_record(layers={"x": step_record().layers["block.0"], "y": step_record().layers["block.1"]})
    assert not can_join(one, summary_of(as_json(renamed)))


def test_a_model_without_layers_is_no_trouble() -> None:
    found = pooled([step_record(layers={})] * 3)
    assert found.pooled is not None
    assert (found.pooled.records, found.pooled.layer_grad_norm) == (3, [])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_layer_that_was_never_finite_has_no_range(value: float | None) -> None:
    found = pooled([with_layer(step_record(), "block.0", grad_norm=value)] * 2)
    assert found.pooled is not None
    assert found.pooled.layer_grad_norm == [None, [1.1, 1.1]]


@pytest.mark.parametrize("missing", ["layers", "window", "loss", "step"])
def test_what_is_no_record_is_refused(missing: str) -> None:
    data = as_json(step_record())
    del data[missing]
    with pytest.raises(KeyError):
        summary_of(data)
