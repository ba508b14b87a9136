"""What the picture of each rule draws: what it measures, or the quantity behind that where it says only yes or no."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.detectors.catalogue.families import RULES
from gradwatch.detectors.huge_gradient import SQUARE_OVERFLOWS
from gradwatch.probes.correctness import TENSOR_TOLERANCE, WHOLE_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.rule_runs import Run, Seen
    from gradwatch.observations import LayerInput
    from gradwatch.records import StepRecord

Points = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What is drawn.

    Attributes:
        label: of the axis, with the unit.
        read: its values in a run, (step, value), for a layer.
        limit: where the rule's threshold lies, in the run with the fault; None where it is no level.
        threshold: what the line of the limit is called.
        log: the axis is logarithmic.
        x: what the values stand over.
        lowest, highest: of the axis, where the data should not decide.
        at_end: the finding is marked at the last value, and not at its step.
        twin_limit: the healthy twin has a limit of its own.
        ticks: what stands for single values on the axis.
        absent: why there may be nothing to draw.
    """

    label: str
    read: Callable[[Run, str | None], Points]
    limit: Callable[[Run, str | None], float | None] = lambda _run, _layer: None
    threshold: str = "threshold"
    log: bool = False
    x: str = "optimizer step"
    lowest: float | None = None
    highest: float | None = None
    at_end: bool = False
    twin_limit: bool = False
    ticks: dict[float, str] = field(default_factory=dict)
    absent: str = "not measured"


def quantity_of(code: str) -> Quantity:
    """Return what the picture of a rule draws; by default the strength of its sign, whose threshold is 1."""
    return QUANTITIES.get(code) or measured(RULES[code].quantity)


def measured(label: str, unit: float = 1.0, *, log: bool = False, **options: Any) -> Quantity:
    """Return the strength of a sign, times ``unit``."""

    def read(run: Run, layer: str | None) -> Points:
        return [(one.record.step, unit * _strength(one, layer)) for one in run.seen]

    return Quantity(label=label, read=read, limit=_at(unit), log=log, **options)


def _strength(one: Seen, layer: str | None) -> float:
    """Return how strongly the sign shows in a layer, or in the run if it is about that."""
    if one.reading is None:
        return math.nan
    strength = np.atleast_1d(np.asarray(one.reading.strength, dtype=float))
    subjects = list(one.reading.subjects)
    if subjects == [None]:
        return float(strength[0])
    return float(strength[subjects.index(layer)]) if layer in subjects else math.nan


def told(label: str, name: str, limit: float | None = None, **options: Any) -> Quantity:
    """Return a number of the evidence, which a rule can give of any record."""

    def read(run: Run, layer: str | None) -> Points:
        return [(one.record.step, _evidence(one, layer, name)) for one in run.seen]

    return Quantity(label=label, read=read, limit=_at(limit), **options)


def _evidence(one: Seen, layer: str | None, name: str) -> float:
    if one.reading is None:
        return math.nan
    subjects = list(one.reading.subjects)
    place = 0 if subjects == [None] else subjects.index(layer) if layer in subjects else None
    return math.nan if place is None else float(one.reading.explain(place).evidence[name])


def each_step(label: str, column: str, **options: Any) -> Quantity:
    """Return a number that is known of every step."""

    def read(run: Run, _layer: str | None) -> Points:
        return [
            (float(step), float(np.max(value)))
            for one in run.seen
            for step, value in zip(one.record.rows.step, getattr(one.record.rows, column), strict=True)
        ]

    return Quantity(label=label, read=read, **options)


def largest_of_steps(label: str, column: str, **options: Any) -> Quantity:
    """Return the largest of a number that is known of every step, since the last log step."""

    def read(run: Run, _layer: str | None) -> Points:
        return [(one.record.step, float(np.nanmax(getattr(one.record.rows, column)))) for one in run.seen]

    return Quantity(label=label, read=read, **options)


def of_layer(label: str, column: str, **options: Any) -> Quantity:
    """Return a number of the layer; NaN where it has none."""

    def read(run: Run, layer: str | None) -> Points:
        found: Points = []
        for one in run.seen:
            layers = one.record.layers
            known = layer in layers.names
            value = float(getattr(layers, column)[layers.names.index(layer)]) if known else math.nan
            found.append((one.record.step, value))
        return found

    return Quantity(label=label, read=read, **options)


def of_input(label: str, number: Callable[[LayerInput], float], **options: Any) -> Quantity:
    """Return a number of what enters the layer."""

    def read(run: Run, layer: str | None) -> Points:
        return [
            (one.record.step, number(entry))
            for one in run.seen
            if one.record.forward is not None
            for entry in one.record.forward.inputs
            if entry.layer == layer
        ]

    return Quantity(label=label, read=read, **options)


def of_norm(label: str, number: Callable[[Any], float], **options: Any) -> Quantity:
    """Return a number of a BatchNorm."""

    def read(run: Run, layer: str | None) -> Points:
        return [
            (one.record.step, number(entry))
            for one in run.seen
            if one.record.forward is not None
            for entry in one.record.forward.batch_norms
            if entry.module == layer
        ]

    return Quantity(label=label, read=read, **options)


def of_check(label: str, number: Callable[[Any], float], **options: Any) -> Quantity:
    """Return a number of each gradient check."""

    def read(run: Run, _layer: str | None) -> Points:
        return [(one.record.step, number(one.record)) for one in run.seen]

    return Quantity(label=label, read=read, **options)


def _largest(name: str) -> Callable[[Any], float]:
    """Return what finds the largest such number of the tensors of a check."""

    def number(check: Any) -> float:
        values = [getattr(parameter, name) for parameter in check.parameters.values()]
        return max((value for value in values if value is not None), default=math.nan)

    return number


def _at(limit: float | None) -> Callable[[Run, str | None], float | None]:
    return lambda _run, _layer: limit


def _times_start(column: str, factor: float, count: int = 1) -> Callable[[Run, str | None], float | None]:
    """Return a limit that is a multiple of the median over the first steps."""

    def limit(run: Run, _layer: str | None) -> float:
        values = np.concatenate([np.ravel(getattr(one.record.rows, column)) for one in run.seen])
        return factor * float(np.median(values[:count]))

    return limit


def _clipping_limit(run: Run, _layer: str | None) -> float | None:
    limit = run.seen[-1].record.setting.max_norm
    return None if limit is None else float(limit)


def _inputs_in_depth(run: Run, _layer: str | None) -> Points:
    entries = run.seen[0].record.forward.inputs
    return [(place, entry.std) for place, entry in enumerate(entries, 1) if not entry.is_data]


def _far_from_second(run: Run, layer: str | None) -> float:
    (_, second), *_, (_, deepest) = _inputs_in_depth(run, layer)
    factor = RULES["activation-scale"].limits["factor"]
    return second * factor if deepest > second else second / factor


def _largest_output(run: Run, layer: str | None) -> Points:
    return [
        (one.record.step, output.largest)
        for one in run.seen
        if one.record.forward is not None
        for output in one.record.forward.outputs
        if output.module == layer
    ]


def _output_limit(run: Run, layer: str | None) -> float | None:
    bits = RULES["activation-overflow"].limits["bits"]
    outputs = [one.record.forward.outputs for one in run.seen if one.record.forward is not None]
    return next((entry.limit / 2**bits for entry in outputs[-1] if entry.module == layer), None)


def _part_of_norm(run: Run, layer: str | None) -> Points:
    found: Points = []
    for one in run.seen:
        norms = one.record.layers.grad_norm
        mine = norms[one.record.layers.names.index(layer)]
        found.append((one.record.step, float(mine / math.sqrt(np.nansum(norms**2)))))
    return found


def _bad_values(run: Run, _layer: str | None) -> Points:
    return [(one.record.step, float(sum(count for _, count in one.record.bad_batch))) for one in run.seen]


def _losses_of_validation(run: Run, _layer: str | None) -> Points:
    seen = [one.record for one in run.seen if hasattr(one.record, "losses")]
    return [(record.step, next(iter(record.losses.values()))) for record in seen]


def _best_validation(run: Run, layer: str | None) -> float:
    rise = RULES["validation-divergence"].limits["rise"]
    return (1 + rise) * min(value for _, value in _losses_of_validation(run, layer))


def _largest_norms(run: Run, _layer: str | None) -> Points:
    return [(step.step, step.window.grad_norm_max or math.nan) for step in run.steps[0]]


def norms_of_rank(rank: int, column: str) -> Callable[[Run, str | None], Points]:
    """Return what reads a layer's norm on one rank."""

    def value(step: StepRecord, layer: str | None) -> float:
        norms = step.layers.get(layer or "")
        found = None if norms is None else getattr(norms, column)
        return math.nan if found is None else float(found)

    return lambda run, layer: [(step.step, value(step, layer)) for step in run.steps[rank]]


def without_gaps(quantity: Quantity) -> Quantity:
    """Return a quantity that is 0 where there is none."""

    def read(run: Run, layer: str | None) -> Points:
        return [(step, 0.0 if math.isnan(value) else value) for step, value in quantity.read(run, layer)]

    return Quantity(**{**_fields(quantity), "read": read})


def _fields(quantity: Quantity) -> dict[str, Any]:
    return {name: getattr(quantity, name) for name in quantity.__dataclass_fields__}


def _share(label: str, name: str, limit: float) -> Quantity:
    return told(label, name, limit, lowest=0.0, highest=1.0)


NORM = "gradient norm"
LOSS = "loss"
RATE = "learning rate"
SCALE = "loss scale"
QUANTITIES: dict[str, Quantity] = {
    "exploding-gradient": measured("gradient norm, as a multiple of the limit", log=True),
    "vanishing-gradient": told("gradient norm / √elements, first layers", "first", 1e-7, log=True),
    "dead-layer": of_layer("gradient norm of {layer}", "grad_norm_max", lowest=0.0),
    "unused-parameter": without_gaps(of_layer("gradient norm of {layer} (0: no gradient)", "grad_norm", lowest=0.0)),
    "outlier-layer": measured("gradient norm of {layer}, as a multiple of the limit", log=True),
    "huge-gradient": Quantity(
        label="largest gradient norm since the last log step",
        read=_largest_norms,
        limit=_at(SQUARE_OVERFLOWS),
        log=True,
    ),
    "large-update": measured("‖Δw‖ / ‖w‖ of one step, {layer}", 0.1, log=True),
    "small-update": of_layer("‖Δw‖ / ‖w‖ of one step, {layer}", "update_ratio", limit=_at(1e-7), log=True),
    "lost-update": of_layer(
        "share of weights of {layer} left unchanged",
        "unchanged",
        absent="float32 weights",
        limit=_at(0.5),
        lowest=0.0,
        highest=1.0,
    ),
    "adam-epsilon": of_layer(
        "share with √v below eps, {layer}", "below_epsilon", limit=_at(0.5), lowest=0.0, highest=1.0
    ),
    "weight-growth": measured("weight norm of {layer}, as a multiple of the limit", log=True),
    "frozen-weights": without_gaps(of_layer("‖Δw‖ / ‖w‖ of one step, {layer}", "update_ratio", lowest=0.0)),
    "clips-always": each_step(
        NORM, "grad_norm", limit=_clipping_limit, threshold="clipped above", twin_limit=True, log=True
    ),
    "clips-never": largest_of_steps(
        "largest gradient norm since the last log step",
        "grad_norm",
        limit=_clipping_limit,
        threshold="clipped above",
        twin_limit=True,
        log=True,
    ),
    "clips-one-layer": Quantity(
        label="part of the norm in {layer}", read=_part_of_norm, limit=_at(0.9), lowest=0.0, highest=1.0
    ),
    "learning-rate-jump": each_step(RATE, "lr", limit=_times_start("lr", 10.0), log=True),
    "learning-rate-restart": each_step(RATE, "lr"),
    "zero-learning-rate": each_step(RATE, "lr"),
    "missing-warmup": each_step(LOSS, "loss", limit=_times_start("loss", 1.5), log=True),
    "loss-spike": each_step(LOSS, "loss", log=True),
    "loss-divergence": each_step(LOSS, "loss", limit=_times_start("loss", 1.5, 20), log=True),
    "negative-loss": each_step(LOSS, "loss", limit=_at(0.0)),
    "constant-loss": each_step(LOSS, "loss"),
    "validation-divergence": Quantity(
        label="validation loss", read=_losses_of_validation, limit=_best_validation, threshold="1.3 x the best"
    ),
    "loss-scale-collapse": each_step(SCALE, "loss_scale", limit=_times_start("loss_scale", 1 / 16, 20), log=True),
    "skipped-steps": measured("share of skipped steps", 0.1, lowest=0.0),
    "gradient-underflow": of_layer(
        "share below fp16's normal range", "subnormal", limit=_at(0.5), lowest=0.0, highest=1.0
    ),
    "dead-relu": _share("share of dead units behind {layer}", "share", 0.7),
    "saturated-activation": _share("share of saturated values behind {layer}", "share", 0.5),
    "activation-scale": Quantity(
        label="std of what enters, first step",
        read=_inputs_in_depth,
        limit=_far_from_second,
        log=True,
        x="layer with weights, from the first on",
        at_end=True,
    ),
    "activation-overflow": Quantity(
        label="largest output of {layer}", read=_largest_output, limit=_output_limit, log=True
    ),
    "unnormalised-input": measured("rms of what enters {layer}", 20.0, log=True),
    "constant-input": of_input("std of what enters {layer}", lambda entry: entry.std),
    "nonfinite-running-statistics": of_norm(
        "running statistics of {layer}", lambda entry: float(not entry.finite), ticks={0: "finite", 1: "not finite"}
    ),
    "frozen-running-statistics": of_norm(
        "running statistics of {layer}", lambda entry: float(entry.at_start), ticks={0: "updated", 1: "as built"}
    ),
    "nonfinite-input": Quantity(label="NaN and inf in a batch", read=_bad_values),
    "target-domain": each_step(LOSS, "loss"),
    "small-batch": each_step("samples in a batch", "batch_size", limit=_times_start("batch_size", 0.1), lowest=0.0),
    "small-batch-normalisation": of_norm(
        "samples a device in {layer}", lambda entry: entry.samples, limit=_at(4.0), lowest=0.0
    ),
    "gradient-mismatch": of_check(
        "gradient against finite differences, relative error",
        lambda check: math.nan if check.relative_error is None else check.relative_error,
        limit=_at(WHOLE_TOLERANCE),
        log=True,
    ),
    "stopped-gradient": of_check(
        "gradient against finite differences, largest relative error",
        _largest("relative_error"),
        limit=_at(TENSOR_TOLERANCE),
        log=True,
    ),
    "precision-gap": of_check(
        "gradient against float64, largest relative error", _largest("precision_error"), log=True
    ),
    "irreproducible-gradient": of_check("largest difference of two gradients of one batch", _largest("difference")),
    "batch-mixing": of_check("change of other samples' outputs", lambda record: record.change, lowest=0.0),
    "rank-weights-differ": Quantity(label="weight norm of {layer}", read=norms_of_rank(0, "weight_norm")),
    "rank-gradients-differ": Quantity(label="gradient norm of {layer}", read=norms_of_rank(0, "grad_norm")),
}
RANK_COLUMNS = {"rank-weights-differ": "weight_norm", "rank-gradients-differ": "grad_norm"}


def rank_lines(code: str, faulty: Run, twin: Run, layer: str | None) -> list[tuple[str, Points, str]]:
    """Return name, points and style of each rank's curve; without the fault one lies on the other."""
    column = RANK_COLUMNS[code]
    first, second = norms_of_rank(0, column), norms_of_rank(1, column)
    return [
        ("rank 0, fault", first(faulty, layer), "-"),
        ("rank 1, fault", second(faulty, layer), "--"),
        ("both, without it", first(twin, layer), "-"),
    ]


def finite(points: Iterable[tuple[float, float]]) -> Points:
    """Return the points that are numbers."""
    return [(x, y) for x, y in points if math.isfinite(y)]
