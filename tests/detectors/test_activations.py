from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.detectors.activations import DETECTORS
from gradwatch.observations import FirstForward
from tests.detectors.observations import findings
from tests.detectors.seeing import codes, entering, forward, observation

if TYPE_CHECKING:
    from gradwatch.observations import LayerInput, Observation

SHARES = st.one_of(st.floats(0, 1), st.just(math.nan))
ANY = st.floats(allow_nan=True, allow_infinity=True)


def relu(dead: float, layer: str = "b", source: str | None = "a") -> LayerInput:
    return entering(layer, activation="relu", source=source, dead=dead)


def tanh(saturated: float, layer: str = "b", source: str = "a") -> LayerInput:
    return entering(layer, activation="tanh", source=source, saturated=saturated)


def run(*passes: tuple[LayerInput, ...], **fields: Any) -> list[Observation]:
    return [observation(10 * (i + 1), forward=forward(*inputs, **fields)) for i, inputs in enumerate(passes)]


def first(*inputs: LayerInput) -> FirstForward:
    return FirstForward(time=0.0, step=0, epoch=0, batch_idx=0, rank=0, forward=forward(*inputs))


def test_dead_relus_are_told_of_the_layer_before() -> None:
    (finding,) = findings(DETECTORS, run((relu(0.8),)))
    assert (finding.code, finding.layer, finding.status, finding.severity) == ("dead-relu", "a", "opened", "warning")
    assert finding.message == (
        "80% of the units of a are dead behind their ReLU: zero for every sample of the last batches"
        " (seen in what enters b)."
    )


@pytest.mark.parametrize("dead", [0.0, 0.5, 0.69, math.nan])
def test_half_of_the_units_may_be_silent(dead: float) -> None:
    assert codes(DETECTORS, run((relu(dead),), (relu(dead),))) == []


@pytest.mark.parametrize(
    ("dead", "units", "expected"),
    [(0.75, 8, False), (1.0, 8, True), (1.0, 1, True), (0.75, 4, False), (0.72, 64, True), (0.69, 4096, False)],
)
def test_of_few_units_more_have_to_be_dead(dead: float, units: int, expected: bool) -> None:  # noqa: FBT001
    entry = replace(relu(dead), units=units)
    assert codes(DETECTORS, run((entry,))) == (["dead-relu"] if expected else [])


def test_an_output_that_enters_several_layers_is_one_subject() -> None:
    told = findings(DETECTORS, run((relu(0.75, "b"), relu(0.9, "c"), relu(math.nan, "d"))))
    assert [(finding.layer, finding.evidence["enters"]) for finding in told] == [("a", "c")]


def test_saturation_has_to_last_for_three_records() -> None:
    assert codes(DETECTORS, run(*[(tanh(0.6),)] * 2)) == []
    assert codes(DETECTORS, run((tanh(0.6),), (tanh(0.4),), (tanh(0.6),), (tanh(0.6),))) == []
    (finding,) = findings(DETECTORS, run(*[(tanh(0.6),)] * 3))
    assert (finding.code, finding.layer, finding.since_step) == ("saturated-activation", "a", 10)


def test_steps_without_a_sample_or_a_number_neither_advance_nor_reset() -> None:
    seen = run((tanh(0.6),), (tanh(math.nan),), (), (tanh(0.6),), (tanh(0.6),))
    seen.insert(3, observation(35))
    assert [finding.step for finding in findings(DETECTORS, seen)] == [50]
    assert codes(DETECTORS, [*seen[:4], observation(38), observation(39), *seen[4:5]]) == []


@pytest.mark.parametrize(("layer", "source"), [("discriminator", "a"), ("b", "generator")])
def test_what_goes_from_one_network_into_another_is_no_hidden_activation(layer: str, source: str) -> None:
    entries = (relu(1.0, layer, source), tanh(1.0, layer, source))
    assert codes(DETECTORS, run(*[entries] * 5)) == []


def test_findings_close_when_units_come_back() -> None:
    told = findings(DETECTORS, run((relu(0.8),), *[(relu(0.1),)] * 3))
    assert [finding.status for finding in told] == ["opened", "closed"]


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_a_scale_that_dies_or_explodes_is_told_of_the_deepest_layer(factor: float) -> None:
    inputs = (entering("a", is_data=True), entering("b"), entering("c"), entering("d", std=factor))
    (finding,) = findings(DETECTORS, [first(*inputs)])
    assert (finding.code, finding.layer) == ("activation-scale", "d")
    assert finding.evidence["factor"] == pytest.approx(factor)
    assert codes(DETECTORS, run(inputs)) == []


@pytest.mark.parametrize("std", [0.01, 100.0, 0.0, math.nan, math.inf])
def test_ordinary_scales_zero_initialisations_and_unknown_ones_are_silent(std: float) -> None:
    inputs = (entering("a", is_data=True), entering("b"), entering("c"), entering("d", std=std))
    assert codes(DETECTORS, [first(*inputs)]) == []


def test_data_is_not_compared() -> None:
    inputs = (entering("a", is_data=True), entering("b"), entering("c"), entering("d", std=1e6, is_data=True))
    assert codes(DETECTORS, [first(*inputs)]) == []
    assert codes(DETECTORS, [first(entering("a", std=1e6), entering("b"))]) == []


@given(st.lists(st.tuples(SHARES, SHARES, ANY, st.booleans()), max_size=12))
def test_anything_may_be_seen(passes: list[tuple[float, float, float, bool]]) -> None:
    seen = [
        observation(i + 1, forward=forward(relu(dead), tanh(flat, "c"), entering("d", std=std)))
        if looked
        else observation(i + 1)
        for i, (dead, flat, std, looked) in enumerate(passes)
    ]
    findings(DETECTORS, [*(first(entering("b"), entering("d", std=std)) for _, _, std, _ in passes), *seen])


@given(st.lists(st.one_of(st.floats(0, 0.69), st.floats(0.71, 1)), max_size=12), st.data())
def test_gaps_do_not_change_the_verdict(shares: list[float], data: st.DataObject) -> None:
    unknown = [None, forward(), forward(relu(math.nan))]
    whole, gaps = [], []
    for step, share in enumerate(shares, 1):
        whole.append(observation(step, forward=forward(relu(share))))
        gaps.append(whole[-1])
        if data.draw(st.booleans()):
            gaps.append(observation(step, forward=data.draw(st.sampled_from(unknown))))
    assert findings(DETECTORS, gaps) == findings(DETECTORS, whole)
