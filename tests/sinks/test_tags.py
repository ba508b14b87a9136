from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from gradwatch.records import LayerNorms
from gradwatch.sinks.tags import (
    HEALTH_TAGS,
    LAYER_TAGS,
    TAGS,
    as_markdown,
    gradient_check_metrics,
    health_metrics,
    layer_metrics,
)
from tests.sinks.samples import step_record, with_layer

NONFINITE = [math.nan, math.inf, -math.inf]


def test_the_table_has_exactly_the_tags_of_the_contract() -> None:
    assert [tag.name for tag in TAGS] == [
        "grad_norm/<layer>",
        "weight_norm/<layer>",
        "update_ratio/<layer>",
        "health/grad_norm",
        "health/grad_norm_max",
        "health/grad_norm_clipped",
        "health/clip_coefficient",
        "health/clip_rate",
        "health/nonfinite",
        "health/skipped_steps",
        "health/loss_max",
        "health/loss_scale",
        "health/gradient_check_error",
    ]
    assert all(tag.unit and tag.meaning for tag in TAGS)


def test_every_tag_of_the_table_is_sent_and_no_other() -> None:
    record = step_record(loss_scale=1024.0)
    sent = {*health_metrics(record), *gradient_check_metrics([0.1])}
    assert sent == {tag.name for tag in HEALTH_TAGS}
    layers = {tag.name.replace("<layer>", name) for tag in LAYER_TAGS for name in record.layers}
    assert set(layer_metrics(record)) == layers


def test_health_values() -> None:
    assert health_metrics(step_record(skipped_steps=4, loss_scale=2.0**16)) == {
        "health/grad_norm": 2.0,
        "health/grad_norm_max": 2.5,
        "health/grad_norm_clipped": 1.0,
        "health/clip_coefficient": 0.5,
        "health/clip_rate": 0.25,
        "health/nonfinite": 0,
        "health/skipped_steps": 4,
        "health/loss_max": 0.75,
        "health/loss_scale": 65536.0,
    }


def test_a_spike_between_two_log_steps_is_sent() -> None:
    window = replace(step_record().window, grad_norm_max=1e6, loss_max=1e3)
    metrics = health_metrics(step_record(window=window))
    assert (metrics["health/grad_norm"], metrics["health/grad_norm_max"]) == (2.0, 1e6)
    assert metrics["health/loss_max"] == 1e3
    nothing = replace(window, grad_norm_max=None, loss_max=None)
    assert {"health/grad_norm_max", "health/loss_max"}.isdisjoint(health_metrics(step_record(window=nothing)))


def test_counters_are_integers() -> None:
    metrics = health_metrics(step_record(nonfinite_steps=3))
    assert type(metrics["health/nonfinite"]) is int
    assert type(metrics["health/skipped_steps"]) is int
    assert metrics["health/nonfinite"] == 3


def test_layer_values() -> None:
    layers = {"fc": LayerNorms(grad_norm=0.25, weight_norm=2.0, update_ratio=1e-3, nonfinite=0)}
    assert layer_metrics(step_record(layers=layers)) == {
        "grad_norm/fc": 0.25,
        "weight_norm/fc": 2.0,
        "update_ratio/fc": 1e-3,
    }


def test_a_layer_without_gradient_has_no_gradient_tag() -> None:
    metrics = layer_metrics(with_layer(step_record(1), "block.0", grad_norm=None))
    assert set(metrics) == {"weight_norm/block.0", "update_ratio/block.0"}


def test_a_name_that_no_file_of_events_takes_is_written_with_an_escape() -> None:
    norms = LayerNorms(grad_norm=0.25, weight_norm=2.0, update_ratio=1e-3, nonfinite=0)
    tags = layer_metrics(step_record(layers={"\ud800ä": norms}))
    assert set(tags) == {f"{metric}/\\ud800ä" for metric in ("grad_norm", "weight_norm", "update_ratio")}


def test_the_separator_is_the_loggers_own() -> None:
    record = step_record(1, optimizer=2)
    assert "health.grad_norm.optimizer_2" in health_metrics(record, separator=".")
    assert "grad_norm-block.0" in layer_metrics(record, separator="-")
    assert set(gradient_check_metrics([1.0], separator="-")) == {"health-gradient_check_error"}


def test_only_what_belongs_to_an_optimizer_carries_its_number() -> None:
    record = step_record(optimizer=1, loss_scale=1.0)
    assert set(health_metrics(record)) == {
        "health/grad_norm/optimizer_1",
        "health/grad_norm_max/optimizer_1",
        "health/grad_norm_clipped/optimizer_1",
        "health/clip_coefficient/optimizer_1",
        "health/clip_rate/optimizer_1",
        "health/loss_max/optimizer_1",
        "health/nonfinite",
        "health/skipped_steps",
        "health/loss_scale",
    }
    assert layer_metrics(record) == layer_metrics(step_record())


@pytest.mark.parametrize("value", NONFINITE)
def test_a_nonfinite_value_is_left_out_and_counted(value: float) -> None:
    for record in (
        step_record(grad_norm=value),
        step_record(loss=value),
        with_layer(step_record(), "block.1", grad_norm=value),
        with_layer(step_record(), "block.1", weight_norm=value),
        with_layer(step_record(), "block.1", update_ratio=value),
    ):
        metrics = {**health_metrics(record), **layer_metrics(record)}
        assert all(math.isfinite(number) for number in metrics.values())
    assert (
        health_metrics(step_record(grad_norm=value)).keys().isdisjoint({"health/grad_norm", "health/grad_norm_clipped"})
    )


def test_the_gradient_check_error_is_the_largest_known() -> None:
    assert gradient_check_metrics([1e-3, None, 0.5, math.nan, math.inf]) == {"health/gradient_check_error": 0.5}
    assert gradient_check_metrics([None, math.nan]) == {}
    assert gradient_check_metrics([]) == {}


def test_the_page_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "logged_tags.md"
    assert page.read_text(encoding="utf-8") == as_markdown()


def test_the_page_names_every_tag_in_a_whole_row() -> None:
    rows = [line for line in as_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(TAGS)
    assert all(row.replace("\\|", "").count("|") == 4 for row in rows)
