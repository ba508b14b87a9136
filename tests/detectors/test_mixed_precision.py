from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradwatch.detectors.mixed_precision import DETECTORS
from gradwatch.observations import Forward, ModuleOutput, Setting
from tests.detectors.observations import by_code, findings, observation, opened, unknown

FP16 = Setting(optimizer="AdamW", compute="fp16", has_scaler=True)
NO_BF16 = FP16._replace(has_bf16=False)
Of = Callable[[Any], Any]


def records(
    scale: Of = lambda _: 65536.0,
    skipped: Of = lambda _: False,
    last: int = 600,
    setting: Setting = NO_BF16,
    outputs: Callable[[int], dict[str, float]] | None = None,
    **layers: Any,
) -> list[Any]:
    made = []
    for step in range(10, last + 10, 10):
        steps, forward = np.arange(step - 9, step + 1), None
        if outputs is not None:
            pairs = outputs(step).items()
            forward = Forward(outputs=tuple(ModuleOutput(module=m, largest=x, limit=65504.0) for m, x in pairs))
        rows = {"loss_scale": scale(steps), "skipped": skipped(steps)}
        made.append(observation(step, rows_changed=rows, setting=setting, forward=forward, layers_changed=layers))
    return made


def calibrating(step: Any) -> Any:
    """Half the scale at every one of the first ten steps, twice as much now and then."""
    return 2.0 ** (40 - np.minimum(step, 10) + (step > 300))


def test_a_healthy_scaler_is_silent() -> None:
    healthy = records(calibrating, lambda s: (s < 10) | (s == 301), setting=FP16)
    assert opened(DETECTORS, healthy) == []
    assert opened(DETECTORS, records(lambda _: np.nan)) == []


def test_a_scale_that_falls_from_its_level_is_told_and_closes_at_a_new_one() -> None:
    told = findings(DETECTORS, records(lambda s: np.where(s < 205, 65536.0, 4096.0)))
    assert [(f.code, f.status, f.step) for f in told][:1] == [("loss-scale-collapse", "opened", 210)]
    assert told[0].evidence == {"scale": 4096.0, "lowest": 4096.0, "held": 65536.0}
    assert [f.status for f in told] == ["opened", "closed"]
    assert opened(DETECTORS, records(lambda s: np.where(s < 205, 65536.0, 8192.0))) == []


def test_a_scale_below_one_is_told() -> None:
    told = opened(DETECTORS, records(lambda s: np.where(s < 100, 2.0, 0.5)))
    assert ("loss-scale-collapse", None) in told
    assert ("loss-scale-stuck", None) in told


def test_overflows_at_a_scale_that_does_not_move_are_told() -> None:
    told = findings(DETECTORS, records(skipped=lambda s: (s > 202) & (s < 206)))
    assert [(f.code, f.step) for f in told if f.status == "opened"] == [("loss-scale-stuck", 210)]
    assert told[0].evidence["overflows"] == 3
    assert opened(DETECTORS, records(skipped=lambda s: (s > 202) & (s < 205))) == []


def test_overflows_across_a_log_step_are_counted_together() -> None:
    assert opened(DETECTORS, records(skipped=lambda s: (s > 198) & (s < 202))) == [("loss-scale-stuck", None)]


def test_a_scale_that_fell_to_one_says_so() -> None:
    told = findings(DETECTORS, records(lambda s: np.where(s < 15, 2.0, 1.0)))
    assert [(f.code, f.step) for f in told] == [("loss-scale-stuck", 40)]
    assert (
        told[0].message
        == "The loss scale has been at 1 for 26 steps: it no longer keeps fp16 gradients from underflow."
    )


def test_many_skipped_steps_are_told() -> None:
    told = findings(DETECTORS, records(skipped=lambda s: s % 5 == 0))
    assert [(f.code, f.step) for f in told] == [("skipped-steps", 200)]
    assert told[0].evidence == {"share": 0.2, "skipped": 20, "of": 100}
    assert opened(DETECTORS, records(skipped=lambda s: s % 12 == 0)) == []
    assert opened(DETECTORS, records(skipped=lambda s: s <= 100)) == [("loss-scale-stuck", None)]


def test_gradients_that_underflow_are_told_of_fp16_only() -> None:
    assert opened(DETECTORS, records(subnormal={"head": 0.8})) == [("gradient-underflow", "head")]
    assert opened(DETECTORS, records(subnormal={"head": 0.4})) == []
    assert opened(DETECTORS, records(subnormal={"head": 0.8}, setting=Setting())) == []


def test_converged_gradients_may_underflow() -> None:
    start = observation(1, setting=NO_BF16, layers_changed={"grad_norm": 1e4})
    assert opened(DETECTORS, [start, *records(subnormal=0.9)]) == []


def noise(step: int) -> float:
    return float(np.exp(0.1 * np.random.default_rng(step).standard_normal()))


def test_activations_near_the_limit_are_told_of_their_module() -> None:
    told = findings(DETECTORS, records(outputs=lambda s: {"encoder": 10.0 * noise(s), "head": 3e4 * noise(s)}))
    assert [(f.code, f.layer, f.step) for f in told] == [("activation-overflow", "head", 20)]
    assert told[0].evidence["limit"] == 65504.0
    assert told[0].evidence["steps_left"] is None


def test_activations_on_their_way_are_told_before_they_are_there() -> None:
    told = findings(DETECTORS, records(outputs=lambda s: {"head": 20.0 * 2.0 ** (s / 60)}, last=500))
    assert (told[0].code, told[0].layer, told[0].status) == ("activation-overflow", "head", "opened")
    assert told[0].evidence["largest"] < 16376
    expected = 60 * np.log2(16376 / told[0].evidence["largest"])
    assert told[0].evidence["steps_left"] == pytest.approx(expected, abs=1)
    assert f"in about {expected:.0f} steps" in told[0].message


@pytest.mark.parametrize(
    "output",
    [
        lambda _: 65504.0,  # torch.finfo(torch.float16).min, where a mask is
        lambda _: 60000.0,
        lambda step: 3000.0 * noise(step),
        lambda step: 1e-2 * 2.0 ** (min(step, 100) / 10) * noise(step),  # from a small start, a thousandfold
        lambda step: np.inf if step == 50 else 10.0 * noise(step),
    ],
    ids=["largest", "fill", "massive", "start", "inf"],
)
def test_other_activations_are_silent(output: Any) -> None:
    assert opened(DETECTORS, records(outputs=lambda step: {"head": output(step)}, setting=FP16)) == []


def test_modules_may_come_and_go() -> None:
    def outputs(step: int) -> dict[str, float]:
        return {"b": 2.0 * noise(step)} if step % 20 else {"a": noise(step), "b": 3.0 * noise(step), "c": 1.0}

    assert opened(DETECTORS, records(outputs=outputs)) == []


def test_fp16_at_its_limits_is_told_where_there_is_bf16() -> None:
    rule = by_code(DETECTORS, "fp16-range")
    assert opened(rule, records(skipped=lambda s: s % 40 == 0, setting=FP16)) == [("fp16-range", None)]
    assert opened(rule, records(outputs=lambda s: {"head": 3e4 * noise(s)}, setting=FP16)) == [("fp16-range", None)]
    assert opened(rule, records(skipped=lambda s: s % 40 == 0)) == []
    assert opened(rule, records(skipped=lambda s: s % 200 == 0, setting=FP16)) == []


def test_what_is_not_known_neither_counts_nor_resets() -> None:
    told = records(skipped=lambda s: (s > 198) & (s < 202))
    with_gap = [*told[:20], unknown(200, setting=NO_BF16), *told[20:]]
    assert opened(DETECTORS, with_gap) == [("loss-scale-stuck", None)]
