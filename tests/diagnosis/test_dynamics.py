"""Growing runs told from single bad operations, on made-up histories and on trainings that really diverge."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn

from gradwatch.diagnosis.circumstances import Circumstances
from gradwatch.diagnosis.dynamics import Growth, dynamics_text, growth, is_dynamics
from gradwatch.records import Origin, TensorSummary
from tests.diagnosis.histories import HEALTHY_KINDS, healthy_history

# Learning rate 2 in place of 2.5e-4.
TOO_LARGE = ([0, 1, 2, 3], [8.3, 500.0, 5.5e10, 4.5e34], [3.0, 900.0, 1e8, 1e25])
GROWN = Growth(since_step=3, factor_per_step=1000.0, quantity="gradient norm", first=1.0, last=1e15, steps=6)


def operation(op: str, transition: str, *ranges: tuple[float | None, float | None], dtype: str = "float32") -> Origin:
    inputs = [
        TensorSummary(shape=(4,), dtype=dtype, min=low, max=high, nan=0, posinf=0, neginf=0, zeros=0)
        for low, high in ranges
    ]
    return Origin(phase="forward", op=op, transition=transition, inputs=inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [3, 4])
def test_a_far_too_large_learning_rate_shows_in_three_rows(rows: int) -> None:
    steps, losses, norms = TOO_LARGE[0][:rows], TOO_LARGE[1][:rows], TOO_LARGE[2][:rows]
    grown = growth(steps, losses, norms)
    assert grown is not None
    assert (grown.since_step, grown.steps, grown.quantity) == (0, rows, "loss")
    assert grown.last == pytest.approx(losses[-1])


def test_steady_growth_is_dated_from_its_first_step() -> None:
    norms = [1.0, 1.3, 0.8, 1.1, 0.9] * 4 + [3.0**i for i in range(1, 12)]
    grown = growth(range(100, 131), [None] * 31, norms)
    assert grown is not None
    assert abs(grown.since_step - 119) <= 2
    assert grown.factor_per_step == pytest.approx(3.0, rel=0.15)
    assert grown.quantity == "gradient norm"


def test_nonfinite_and_unknown_rows_do_not_hide_the_growth() -> None:
    steps, losses, norms = TOO_LARGE
    assert growth([*steps, 4], [*losses, math.nan], [*norms, math.inf]) is not None
    assert growth([-1, *steps], [None, *losses], [math.nan, *norms]) is not None
    assert growth([-1, *steps], [None, *losses], [0.0, *norms]) is not None


@pytest.mark.parametrize(
    ("losses", "norms"),
    [
        ([], []),
        ([1.0], [1.0]),
        ([None] * 4, [math.nan] * 4),
        ([1.0, 1e9], [1.0, 1e9]),
        ([2.0] * 20 + [1e6], [1.0] * 20 + [1e8]),
        ([10.0 * 0.8**i for i in range(20)], [5.0 * 0.9**i for i in range(20)]),
        ([2.3] * 11, [1e-6 * 1.2**i for i in range(11)]),
        ([2.3 * 0.95**i for i in range(12)], [1e-6 * 4.0**i for i in range(12)]),
        ([0.7, -0.5] * 8, [0.1, 10.0, 1.0, 100.0] * 4),
        ([1.0, 1e4, 1e8, 2.0, 1.5], [1.0, 1e4, 1e8, 2.0, 1.5]),
    ],
    ids=[
        "empty",
        "one row",
        "nothing finite",
        "two rows",
        "one spike",
        "falling",
        "warm-up",
        "start at zero",
        "GAN",
        "over already",
    ],
)
def test_no_growth(losses: list[float | None], norms: list[float]) -> None:
    assert growth(list(range(len(norms))), losses, norms) is None


@pytest.mark.parametrize("kind", HEALTHY_KINDS)
def test_healthy_histories_never_count_as_growth(kind: str) -> None:
    random_source = random.Random(kind)
    histories = [healthy_history(kind, random_source) for _ in range(250)]
    assert [history for history in histories if growth(*history) is not None] == []


@pytest.mark.parametrize(
    ("origin", "verdict"),
    [
        (operation("mse_loss", "finite->inf", (1.0, 1e20), (0.0, 1.0)), True),
        (operation("mm", "finite->nan", (-1e25, 1e25), (-1.0, 1.0)), True),
        (operation("softmax", "inf->nan", (-1e30, 1e30)), True),
        (operation("exp", "finite->inf", (-3.0, 16342.0)), True),
        (operation("mm", "finite->inf", (-400.0, 400.0), (-1.0, 1.0), dtype="float16"), True),
        (operation("exp", "finite->inf", (-3.0, 95.0)), False),
        (operation("log", "finite->inf", (0.0, 1.0)), False),
        (operation("div", "finite->nan", (0.0, 3.0), (0.0, 1.0)), False),
        (operation("softmax", "inf->nan", (-8.0, 8.0)), False),
        (operation("softmax", "inf->nan", (None, None)), False),
        (operation("mm", "finite->inf", (-20.0, 20.0), (-1.0, 1.0), dtype="float16"), False),
        (Origin(phase="forward", op="mm", transition="finite->inf"), False),
        (Origin(phase="parameter"), False),
    ],
)
def test_growth_is_to_blame_only_for_what_large_numbers_explain(origin: Origin, verdict: bool) -> None:  # noqa: FBT001
    assert is_dynamics(GROWN, origin) is verdict
    assert not is_dynamics(None, origin)


def test_a_run_that_has_left_every_bound_explains_smaller_inputs() -> None:
    origin = operation("layer_norm", "finite->nan", (-5e11, 5e11))
    assert not is_dynamics(GROWN, origin)
    assert is_dynamics(GROWN._replace(last=1e18), origin)


def test_the_text_has_the_numbers_of_the_growth() -> None:
    origin = operation("mse_loss", "finite->inf", (1.0, 1e20))
    text = dynamics_text(GROWN, origin, Circumstances(losses=["+inf"], bad_gradients=4, gradients=4))
    assert text.explanation.startswith(
        "The gradient norm grew 1e+03x per step since step 3, from 1 to 1e+15 over 6 steps, until mse_loss overflowed"
    )
    assert "no module or operation is to blame" in text.explanation
    assert "learning rate" in text.advice
    assert max(map(len, text)) <= 400


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rate", [1.0, 3.0, 10.0])
def test_a_real_divergence_is_seen(seed: int, rate: float) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    x, y = torch.randn(16, 8), torch.randn(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses: list[float | None] = []
    norms: list[float] = []
    while not losses or math.isfinite(losses[-1] or 0.0):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        norms.append(math.hypot(*(float(p.grad.double().norm()) for p in model.parameters() if p.grad is not None)))
        optimizer.step()
    grown = growth(range(len(losses) - 1), losses[:-1], norms[:-1])
    assert grown is not None
    assert grown.last > 1e10
