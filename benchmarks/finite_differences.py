"""A gradient checked by hand as many do it, against what gradwatch does: error by step, formula and format.

The loss is the one that asks for trouble: a squared error summed over 16,800 elements, in float32, with a forward
difference and a step of 1e-3.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from gradwatch import check_gradients

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gradwatch import GradientCheckReport

SAMPLES, OUTPUTS = 40, 420  # 16,800 elements
COORDINATES = 60
STEPS = [10.0**-exponent for exponent in range(1, 13)]
HABIT = 1e-3


class Series(NamedTuple):
    """One way to difference: the median relative error of single coordinates, by step."""

    name: str
    dtype: torch.dtype
    forward: bool
    errors: dict[float, float]


class Habit(NamedTuple):
    """What the usual check says: forward difference, float32, step 1e-3."""

    median: float
    largest: float
    wrong_sign: int
    coordinates: int


def problem() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Return a small network and its squared error, summed over 16,800 elements."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 20, generator=generator)
    y = torch.randn(SAMPLES, OUTPUTS, generator=generator)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, OUTPUTS))

    def loss(network: nn.Module) -> Tensor:
        dtype = next(network.parameters()).dtype
        return nn.functional.mse_loss(network(x.to(dtype)), y.to(dtype), reduction="sum")

    return module, loss


def measure() -> tuple[list[Series], Habit, GradientCheckReport]:
    """Return the errors by step of four ways, those of the usual check, and gradwatch's report on the same loss."""
    module, loss = problem()
    series = [
        _series(module, loss, dtype, forward) for dtype in (torch.float32, torch.float64) for forward in (True, False)
    ]
    return series, _habit(module, loss), check_gradients(module, loss)


def _series(module: nn.Module, loss: Callable[[nn.Module], Tensor], dtype: torch.dtype, forward: bool) -> Series:  # noqa: FBT001
    errors = {step: statistics.median(_errors(module, loss, dtype, forward, step)) for step in STEPS}
    return Series(f"{'forward' if forward else 'centred'}, {str(dtype).removeprefix('torch.')}", dtype, forward, errors)


def _habit(module: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Habit:
    errors = _errors(module, loss, torch.float32, True, HABIT)
    # |a-n| / max(|a|, |n|) exceeds 1 exactly where the signs differ.
    return Habit(statistics.median(errors), max(errors), sum(error > 1 for error in errors), len(errors))


@torch.no_grad()
def _errors(
    module: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    dtype: torch.dtype,
    forward: bool,  # noqa: FBT001 - one of two formulas
    step: float,
) -> list[float]:
    """Return |a-n| / max(|a|, |n|) of seeded coordinates of the first layer."""
    module.to(dtype)
    weight = next(module.parameters())
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(module), [weight])
    chosen = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(1))[:COORDINATES].tolist()
    flat, found = weight.view(-1), []
    base = float(loss(module))
    for index in chosen:
        before = flat[index].item()
        flat[index] = before + step
        plus = float(loss(module))
        flat[index] = before - step
        minus = float(loss(module)) if not forward else 0.0
        flat[index] = before
        numeric = (plus - base) / step if forward else (plus - minus) / (2 * step)
        exact = float(gradient.view(-1)[index])
        found.append(abs(exact - numeric) / max(abs(exact), abs(numeric)))
    module.float()
    return found


def draw(series: list[Series], path: Path) -> None:
    """Draw error against step, both axes logarithmic."""
    import matplotlib as mpl  # noqa: PLC0415 - only who draws needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "gradwatch"
    figure, axes = plt.subplots(figsize=(7.5, 4.6))
    for one, colour, style in zip(
        series, ("#d55e00", "#e69f00", "#56b4e9", "#0072b2"), ("--", "-", "--", "-"), strict=True
    ):
        axes.loglog(list(one.errors), list(one.errors.values()), style, color=colour, marker="o", ms=4, label=one.name)
    axes.axvline(HABIT, color="0.6", lw=1)
    axes.annotate(
        "the usual 1e-3",
        (HABIT, 0.03),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        color="0.4",
        fontsize=8,
    )
    axes.axvspan(1e-8, 1e-6, color="#009e73", alpha=0.12, label="gradwatch's ladder, 1e-6 to 1e-8")
    axes.invert_xaxis()
    axes.set(
        xlabel="step h",
        ylabel="median relative error of a coordinate",
        title="Squared error summed over 16,800 elements: numerical against exact gradient",
    )
    axes.grid(alpha=0.25, which="major")
    axes.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def as_text(series: list[Series], habit: Habit, report: GradientCheckReport) -> str:
    """Return the answer in a few sentences, with the table."""
    lines = ["| step | " + " | ".join(one.name for one in series) + " |", "|---" * (len(series) + 1) + "|"]
    lines += [f"| {step:.0e} | " + " | ".join(f"{one.errors[step]:.1e}" for one in series) + " |" for step in STEPS]
    worst = max(parameter.relative_error or 0.0 for parameter in report.parameters.values())
    answer = (
        f"By hand, as usual (float32, forward difference, h = 1e-3, {habit.coordinates} coordinates):"
        f" median relative error {habit.median:.1e}, largest {habit.largest:.1e},"
        f" {habit.wrong_sign} with the wrong sign."
        f" The gradient is right. What gradwatch says of the same loss: `{report.verdict}`,"
        f" relative error {report.relative_error:.0e} for all weights together, at most {worst:.0e} for one tensor."
    )
    return "\n".join([answer, "", *lines])
