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
from tests.detectors.observations import NAMES, by_code, findings, observation, opened, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

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


RUNS = st.lists(change(), min_size=1, max_size=4)


def records_of(stretches: list[dict[str, Any]]) -> list[Any]:
    """Return the records of a run in stretches."""
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


@given(RUNS)
@settings(max_examples=40, deadline=None)
def test_no_number_makes_a_rule_fail(run: list[dict[str, Any]]) -> None:
    for finding in findings(DETECTORS, records_of(run)):
        assert finding.message


@given(RUNS, st.sets(st.integers(0, 40), max_size=5))
@settings(max_examples=40, deadline=None)
def test_records_of_which_nothing_is_known_change_nothing(run: list[dict[str, Any]], places: set[int]) -> None:
    records = records_of(run)
    interrupted: list[Any] = []
    for i, record in enumerate(records):
        interrupted.append(record)
        if i in places:
            interrupted.append(unknown(record.step, COUNT, setting=FP16))
    assert told(interrupted) == told(records)


@given(RUNS, st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_a_checkpoint_at_any_point_changes_nothing(run: list[dict[str, Any]], at: int) -> None:
    records = records_of(run)
    first = Panel(DETECTORS)
    before = [finding for record in records[:at] for finding in first.observe(record)]
    second = Panel(DETECTORS)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    after = [finding for record in records[at:] for finding in second.observe(record)]
    assert [str(finding) for finding in before + after] == [str(f) for f in findings(DETECTORS, records)]


def bump(step: np.ndarray) -> np.ndarray:
    rise: np.ndarray = 2.0 + 4.0 * np.exp(-(((step - 60) / 20) ** 2))
    return rise


# By the code of a rule: what of a run is as the rule describes it, at steps (shape [rows]) or at a log step.
FAULTS: dict[str, tuple[dict[str, Callable[[Any], Any]], dict[str, Callable[[int], Any]]]] = {
    "large-update": ({}, {"update_ratio": lambda _: {"head": 0.3}}),
    "small-update": ({}, {"update_ratio": lambda s: {"head": 1e-9 if s < 800 else 1e-3}}),
    "lost-update": ({"lr": lambda s: np.where(s < 800, 1e-3, 1e-9)}, {"unchanged": lambda _: {"head": 0.9}}),
    "adam-epsilon": ({}, {"below_epsilon": lambda s: {"head": 0.9 if s < 800 else 0.0}}),
    "weight-growth": ({}, {"weight_norm": lambda s: {"head": 4.0 * 2.0 ** (min(s, 800) / 60)}}),
    "frozen-weights": (
        {},
        {"update_ratio": lambda s: {"head": 0.0 if s < 800 else 1e-3}, "weight_norm": lambda _: 4.0},
    ),
    "clips-always": ({"grad_norm": lambda _: 3.0, "coefficient": lambda _: 1 / 3}, {}),
    "clips-never": ({"grad_norm": lambda s: np.where(s < 1400, 0.01, 0.5), "coefficient": lambda _: 1.0}, {}),
    "clips-one-layer": (
        {"grad_norm": lambda _: 3.0, "coefficient": lambda _: 1 / 3},
        {"grad_norm": lambda s: {"head": 50.0 if s < 800 else 1.0}},
    ),
    "learning-rate-jump": ({"lr": lambda s: np.where((s > 301) & (s < 800), 0.1, 1e-3)}, {}),
    "learning-rate-restart": ({"lr": lambda s: 1e-3 * (1.0 - ((s - 1) % 410) / 420)}, {}),
    "zero-learning-rate": ({"lr": lambda s: np.where((s > 301) & (s < 800), 0.0, 1e-3)}, {}),
    "missing-warmup": ({"loss": bump}, {}),
    "loss-scale-collapse": ({"loss_scale": lambda s: np.where(s < 310, 65536.0, 16.0)}, {}),
    "loss-scale-stuck": ({"loss_scale": lambda _: 64.0, "skipped": lambda s: (s > 319) & (s < 323)}, {}),
    "skipped-steps": ({"loss_scale": lambda _: 64.0, "skipped": lambda s: (s % 5 == 0) & (s < 700)}, {}),
    "gradient-underflow": ({}, {"subnormal": lambda s: {"head": 0.8 if s < 800 else 0.0}}),
    "activation-overflow": ({}, {}),
    "fp16-range": ({"loss_scale": lambda _: 64.0, "skipped": lambda s: (s % 30 == 0) & (s < 700)}, {}),
}


def faulty(code: str) -> list[Any]:
    """Return the records of a run with a fault that begins or ends on the way."""
    rows, layers = FAULTS[code]
    records = []
    for step in range(COUNT, 1700, COUNT):
        steps = np.arange(step - COUNT + 1, step + 1)
        output = 100.0 * 2.0 ** (min(step, 700) / 100) * (1 + step % 7 / 1e3) if code == "activation-overflow" else 1.0
        records.append(
            observation(
                step,
                COUNT,
                rows_changed={name: value(steps) for name, value in rows.items()},
                layers_changed={name: value(step) for name, value in layers.items()},
                setting=FP16,
                forward=Forward(outputs=(ModuleOutput(module="head", largest=output, limit=65504.0),)),
            )
        )
    return records


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_found_all_the_same_between_records_of_which_nothing_is_known(code: str) -> None:
    records = faulty(code)
    interrupted = [each for record in records for each in (record, unknown(record.step, COUNT, setting=FP16))]
    rule = by_code(DETECTORS, code)
    assert opened(rule, records)
    assert [str(finding) for finding in findings(rule, interrupted)] == [str(f) for f in findings(rule, records)]


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_found_all_the_same_over_checkpoints(code: str) -> None:
    rule, records = by_code(DETECTORS, code), faulty(code)
    state: dict[str, Any] = {}
    resumed = []
    for record in records:
        panel = Panel([rule])
        panel.load_state_dict(json.loads(json.dumps(state)))
        resumed += panel.observe(record)
        state = panel.state_dict()
    assert [str(finding) for finding in resumed] == [str(finding) for finding in findings(rule, records)]


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
