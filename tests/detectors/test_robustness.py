"""What holds for every rule, whatever the numbers: what is not known changes nothing, and a checkpoint neither."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.detectors import clipping, learning_rate, mixed_precision, updates
from gradwatch.detectors.catalogue import clipping as clipping_rules
from gradwatch.detectors.catalogue import learning_rate as learning_rate_rules
from gradwatch.detectors.catalogue import mixed_precision as mixed_precision_rules
from gradwatch.detectors.catalogue import updates as updates_rules
from gradwatch.detectors.panel import Panel
from gradwatch.observations import Forward, ModuleOutput, Setting
from tests.detectors.observations import NAMES, findings, observation, unknown

if TYPE_CHECKING:
    from gradwatch.detectors.catalogue.rule import Rule

DETECTORS = (
    *updates.DETECTORS,
    *clipping.DETECTORS,
    *learning_rate.DETECTORS,
    *mixed_precision.DETECTORS,
)
RULES: tuple[Rule, ...] = (
    *updates_rules.RULES,
    *clipping_rules.RULES,
    *learning_rate_rules.RULES,
    *mixed_precision_rules.RULES,
)
FP16 = Setting(optimizer="AdamW", compute="fp16", has_scaler=True, max_norm=1.0)
# What every rule may meet, and what makes the rules speak.
NUMBERS = st.sampled_from([0.0, 1e-30, 1e-9, 1e-3, 0.3, 1.0, 20.0, 65536.0, 1e30, np.inf, -np.inf, np.nan, -1.0])
COUNT, RECORD = 20, 20
ROWS = ("loss", "grad_norm", "coefficient", "loss_scale", "lr")
LAYERS = ("grad_norm", "grad_norm_max", "weight_norm", "update_ratio", "unchanged", "below_epsilon", "subnormal")


@st.composite
def change(draw: st.DrawFn) -> dict[str, Any]:
    """What one stretch of a run is like: a number for some fields, the rest healthy."""
    rows: dict[str, Any] = {name: draw(NUMBERS) for name in draw(st.sets(st.sampled_from(ROWS), max_size=3))}
    rows["skipped"] = draw(st.booleans())
    layers = {
        name: {layer: draw(NUMBERS) for layer in draw(st.sets(st.sampled_from(NAMES), max_size=2))}
        for name in draw(st.sets(st.sampled_from(LAYERS), max_size=3))
    }
    return {"rows": rows, "layers": layers, "output": draw(NUMBERS), "length": draw(st.integers(1, 12))}


@st.composite
def runs(draw: st.DrawFn) -> list[Any]:
    """Return the records of a run in stretches."""
    stretches = draw(st.lists(change(), min_size=1, max_size=4))
    records, step = [], 0
    for stretch in stretches:
        for _ in range(stretch["length"]):
            step += COUNT
            outputs = (ModuleOutput(module="head", largest=stretch["output"] * (1 + step / 1e4), limit=65504.0),)
            records.append(
                observation(
                    step,
                    COUNT,
                    rows_changed=stretch["rows"],
                    layers_changed=stretch["layers"],
                    setting=FP16,
                    forward=Forward(outputs=outputs),
                )
            )
    return records


def told(records: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (f.code, f.status, f.step, f.since_step, f.layer, f.severity, f.message) for f in findings(DETECTORS, records)
    ]


@given(runs())
@settings(max_examples=40, deadline=None)
def test_no_number_makes_a_rule_fail(records: list[Any]) -> None:
    for finding in findings(DETECTORS, records):
        assert finding.message


@given(runs(), st.sets(st.integers(0, 40), max_size=5))
@settings(max_examples=40, deadline=None)
def test_records_of_which_nothing_is_known_change_nothing(records: list[Any], places: set[int]) -> None:
    interrupted: list[Any] = []
    for i, record in enumerate(records):
        interrupted.append(record)
        if i in places:
            interrupted.append(unknown(record.step, COUNT, setting=FP16))
    assert told(interrupted) == told(records)


@given(runs(), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_a_checkpoint_at_any_point_changes_nothing(records: list[Any], at: int) -> None:
    first = Panel(DETECTORS)
    before = [finding for record in records[:at] for finding in first.observe(record)]
    second = Panel(DETECTORS)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    after = [finding for record in records[at:] for finding in second.observe(record)]
    assert [str(finding) for finding in before + after] == [str(f) for f in findings(DETECTORS, records)]


@pytest.mark.parametrize("rule", RULES, ids=[rule.code for rule in RULES])
def test_every_rule_is_found_by_a_detector(rule: Rule) -> None:
    found = [detector for detector in DETECTORS if detector.rule is rule]
    assert len(found) == 1
    assert set(found[0].by_layer) <= set(found[0].init()._fields)


def test_healthy_runs_of_any_seed_are_silent() -> None:
    for seed in range(20):
        run = range(10, 1500, 10)
        seeded = {"seed": seed}
        assert told([observation(step, rows_changed=seeded, layers_changed=seeded) for step in run]) == []
