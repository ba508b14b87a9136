"""Runs that nobody trained: logs of any size, written through gradwatch's own serialization.

    write_run(folder)                                   a small run of a transformer
    write_run(folder, layers=2000, records=200, steps=100_000)   the thinned log of a long run, about 100 MB
    write_run(folder, seed=3, lr=0.01, spikes=[Spike(record=20, layer=4, factor=1e4)], bad=[(30, 2)])

Loss falls by a power law with autocorrelated noise; gradient norms follow it, each layer at a level of its own;
weights grow slowly. The three older quarters of a long log are pooled, as thinning leaves them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.records import (
    ClipRule,
    ClipState,
    Event,
    LastSteps,
    LayerNorms,
    ParameterRow,
    Pooled,
    RunEnd,
    RunStart,
    StepRecord,
    Window,
)
from gradwatch.serialization import log_name, to_json_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BEGIN = 1_760_000_000.0
SECONDS_A_STEP = 0.25
LAST = 64
_PARTS = ("attention.qkv", "attention.out", "norm1", "mlp.up", "mlp.down", "norm2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """The gradient of one layer, ``factor`` times as large at one record."""

    record: int
    layer: int
    factor: float


def layer_names(count: int) -> list[str]:
    """Names as a transformer has them."""
    names = ["embedding", *(f"blocks.{index // 6}.{_PARTS[index % 6]}" for index in range(count - 2)), "head"]
    return names[:count]


def write_run(folder: Path, *, number: int = 0, events: Sequence[Event] = (), **changes: Any) -> Path:
    """Write one run and return its log.

    Args:
        folder: the run's ``dirpath``; made if it is not there.
        number: of the log, where the folder has several runs.
        events: others (findings, incidents, gradient checks), put where their steps are.
        changes: see ``run_events``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / log_name(0, number)
    waiting = sorted(events, key=lambda event: event.step)
    with path.open("w", encoding="ascii") as file:
        for event in run_events(**changes):
            while waiting and not isinstance(event, RunStart) and waiting[0].step <= event.step:
                file.write(to_json_line(waiting.pop(0)))
            file.write(to_json_line(event))
    return path


def run_events(
    *,
    layers: int = 20,
    records: int = 200,
    steps: int = 2000,
    seed: int = 0,
    lr: float = 1e-3,
    max_norm: float | None = 1.0,
    loss_scale: bool = False,
    names: Sequence[str] | None = None,
    spikes: Sequence[Spike] = (),
    bad: Sequence[tuple[int, int]] = (),
    pooled: bool | None = None,
    run_id: str = "",
    ended: bool = True,
) -> Iterator[Event]:
    """Yield the events of a run in their order.

    Args:
        layers: how many; ``names`` says what they are called.
        records: how many step records.
        steps: how many optimizer steps they span.
        seed: of the noise, and the run's own.
        lr: what the rate warms up to; the loss falls faster with a larger one.
        max_norm: limit of clipping, or None.
        loss_scale: whether there is one, as under 16-bit precision.
        names: of the layers.
        spikes: gradients that are larger once.
        bad: record and layer of gradients with NaN elements.
        pooled: whether the older three quarters are. Default: where a record stands for more than 100 steps.
        run_id: default: made from seed and rate.
        ended: whether it wrote its end.
    """
    names = list(names) if names is not None else layer_names(layers)
    course = _Course(names, records=records, steps=steps, seed=seed, lr=lr, spikes=spikes)
    pooled = steps > 100 * records if pooled is None else pooled
    run_id = run_id or f"synthetic-{lr:g}-{seed}"
    yield _start(run_id, names, seed, lr, max_norm)
    skipped = 0
    for index in range(records):
        bad_layers = {layer for record, layer in bad if record == index}
        skipped += bool(bad_layers)
        record = course.record(
            index, max_norm, bad=bad_layers, skipped=skipped, scale=65536.0 / 2**skipped if loss_scale else None
        )
        yield replace(record, pooled=course.pooled(index, record)) if pooled and index < 3 * records // 4 else record
    yield course.last_steps(max_norm)
    if ended:
        yield RunEnd(
            **_at(steps - 1),
            run_id=run_id,
            status="finished",
            reason=None,
            steps=steps,
            skipped_steps=skipped,
            incidents=0,
        )


class _Course:
    """The numbers of a run, [records] or [records, layers]."""

    def __init__(
        self, names: list[str], *, records: int, steps: int, seed: int, lr: float, spikes: Sequence[Spike]
    ) -> None:
        random = np.random.default_rng([seed, 17])
        setting = np.random.default_rng(len(names))  # the model: the same for every seed
        self.names = names
        self.step = np.rint(np.linspace(0, steps, records + 1)[1:]).astype(int) - 1
        noise = _autocorrelated(random, records, 0.9)
        self.loss = 0.3 + 4.0 * (1.0 + self.step * lr * 20) ** -0.35 * np.exp(0.03 * noise)
        level = np.exp(setting.normal(0.0, 1.2, len(names))) / math.sqrt(len(names))
        wobble = np.exp(random.normal(0.0, 0.18, (records, len(names))) + 0.1 * noise[:, None])
        self.grad = self.loss[:, None] * level * wobble
        for spike in spikes:
            self.grad[spike.record, spike.layer] *= spike.factor
        self.weight = np.exp(setting.normal(1.5, 0.7, len(names))) * (1.0 + 0.3 * np.log1p(self.step[:, None] * lr))
        self.warm = np.minimum(1.0, (self.step + 1) / max(steps // 20, 1))
        self.lr = lr * self.warm * 0.5 * (1.0 + np.cos(np.pi * self.step / max(steps, 1)))
        self.ratio = self.lr[:, None] * np.exp(random.normal(0.0, 0.2, (records, len(names)))) * 3 / self.weight
        self.total = np.sqrt(np.sum(self.grad**2, axis=1))
        self.random = random

    def record(
        self, index: int, max_norm: float | None, bad: set[int], skipped: int, scale: float | None
    ) -> StepRecord:
        """Return one step record."""
        step, before = int(self.step[index]), int(self.step[index - 1]) if index else -1
        total = math.nan if bad else float(self.total[index])
        coefficient = _coefficient(total, max_norm)
        rows = zip(self.names, *(part[index].tolist() for part in (self.grad, self.weight, self.ratio)), strict=True)
        layers = {
            name: LayerNorms(
                grad_norm=math.nan if at in bad else grad,
                weight_norm=weight,
                update_ratio=0.0 if bad else ratio,
                nonfinite=12 if at in bad else 0,
            )
            for at, (name, grad, weight, ratio) in enumerate(rows)
        }
        return StepRecord(
            **_at(step),
            optimizer=0,
            log_step=step,
            loss=float(self.loss[index]),
            grad_norm=total,
            clip=ClipState(
                max_norm=max_norm,
                coefficient=coefficient,
                clipped=coefficient < 1.0,
                rate=float(coefficient < 1.0),
                largest_layer=self.names[int(np.argmax(self.grad[index]))],
            ),
            lr=float(self.lr[index]),
            lr_groups=[float(self.lr[index])],
            loss_scale=scale,
            skipped_steps=skipped,
            nonfinite_steps=skipped,
            window=Window(
                steps=step - before,
                grad_norm_max=float(self.total[index]) * 1.2,
                grad_norm_max_step=step,
                loss_max=float(self.loss[index]) * 1.05,
                clipped_steps=(step - before) * (coefficient < 1.0),
                skipped_steps=int(bool(bad)),
                nonfinite_steps=int(bool(bad)),
            ),
            layers=layers,
        )

    def pooled(self, index: int, record: StepRecord) -> Pooled:
        """Return ranges somewhat wider than the values, as of a few log steps in one record."""
        first = int(self.step[index - 1]) + 1 if index else 0

        def ranges(values: np.ndarray) -> list[list[float] | None]:
            return np.stack([values * 0.8, values * 1.25], axis=1).tolist()

        return Pooled(
            records=4,
            first_step=first,
            first_log_step=first,
            loss=[float(self.loss[index]) * 0.9, float(self.loss[index]) * 1.1],
            grad_norm=[float(self.total[index]) * 0.7, float(self.total[index]) * 1.5],
            layer_nonfinite=[layer.nonfinite for layer in record.layers.values()],
            layer_grad_norm=ranges(self.grad[index]),
            layer_weight_norm=ranges(self.weight[index]),
            layer_update_ratio=ranges(self.ratio[index]),
        )

    def last_steps(self, max_norm: float | None) -> LastSteps:
        """Return the last steps at full rate."""
        last = int(self.step[-1])
        steps = list(range(max(0, last - LAST + 1), last + 1))
        wobble = np.exp(self.random.normal(0.0, 0.15, len(steps)))
        norms = (self.total[-1] * wobble).tolist()
        return LastSteps(
            **_at(last),
            optimizer=0,
            reason="end",
            steps=steps,
            epochs=[0] * len(steps),
            batches=list(steps),
            loss=(self.loss[-1] * wobble).tolist(),
            grad_norm=norms,
            coefficient=[_coefficient(norm, max_norm) for norm in norms],
            lr=[float(self.lr[-1])] * len(steps),
            loss_scale=[None] * len(steps),
            skipped=[False] * len(steps),
            layers={name: (norm * wobble).tolist() for name, norm in zip(self.names, self.grad[-1], strict=True)},
        )


def _autocorrelated(random: np.random.Generator, length: int, memory: float) -> np.ndarray:
    """Return noise of variance 1 in which each value remembers the one before: AR(1)."""
    noise = random.normal(0.0, 1.0, length)
    for index in range(1, length):
        noise[index] = memory * noise[index - 1] + math.sqrt(1.0 - memory**2) * noise[index]
    return noise


def _coefficient(norm: float, max_norm: float | None) -> float:
    return 1.0 if max_norm is None or not norm > max_norm else max_norm / norm


def _at(step: int) -> dict[str, Any]:
    return {
        "time": BEGIN + SECONDS_A_STEP * step,
        "step": step,
        "epoch": step // 1000,
        "batch_idx": step % 1000,
        "rank": 0,
    }


def _start(run_id: str, names: list[str], seed: int, lr: float, max_norm: float | None) -> RunStart:
    group = {"parameters": 2 * len(names), "lr": lr, "betas": [0.9, 0.95], "weight_decay": 0.1}
    return RunStart(
        **_at(0),
        run_id=run_id,
        resumed_from=None,
        versions={"python": "3.11.7", "gradwatch": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6", "numpy": "2.4.6"},
        hardware={"platform": "Linux", "machine": "x86_64", "cpu_count": 16, "device": "cuda:0"},
        precision={"precision": "bf16-mixed", "plugin": "MixedPrecision", "float32_matmul_precision": "high"},
        strategy="SingleDeviceStrategy",
        world_size=1,
        optimizers=[{"class": "AdamW", "defaults": {"lr": lr}, "groups": [group]}],
        seeds={"torch": seed, "PL_GLOBAL_SEED": str(seed)},
        determinism={"deterministic_algorithms": False, "cudnn_benchmark": False},
        clip=ClipRule(
            max_norm=max_norm,
            family="transformer",
            reason=f"{max(len(names) // 6, 1)} CausalSelfAttention modules",
            source="karpathy/nanoGPT@3adf61e train.py:63",
        ),
        settings={"log_every_n_steps": 50, "granularity": "layer", "clip": "auto", "on_nonfinite": "raise"},
        parameters=[
            ParameterRow(
                name=f"{name}.{part}",
                layer=name,
                shape=(768, 768) if part == "weight" else (768,),
                dtype="float32",
                device="cuda:0",
                requires_grad=True,
                optimizer=0,
            )
            for name in names
            for part in ("weight", "bias")
        ],
    )
