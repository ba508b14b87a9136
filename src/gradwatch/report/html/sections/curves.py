"""Curves of the whole model: loss, gradient norm, learning rate, loss scale, clip coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.html.curves import Limit, Series, chart, extent
from gradwatch.report.html.formats import number
from gradwatch.report.html.markup import Markup, element, join
from gradwatch.report.html.page import Section
from gradwatch.report.html.sections.view import View, optimizer_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.report.steps import Steps


def curves_section(view: View) -> Section | None:
    """Return the section of the curves, or None for a run without records."""
    if not any(len(steps) for steps in view.run.steps):
        return None
    charts = [_loss(view), _norm(view), _rate(view), _scale(view), _coefficient(view)]
    lead = "Bands span what happened between two records. Signs mark findings and incidents, and lead to them."
    return Section(name="curves", title="Curves", body=join(charts), lead=lead)


def _loss(view: View) -> Markup | None:
    def loss(steps: Steps) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        return np.where(steps.loss_bad, np.inf, steps.loss), steps.loss_low, steps.loss_high

    return _chart(view, "Loss", loss)


def _norm(view: View) -> Markup | None:
    def norm(steps: Steps) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        return np.where(steps.grad_norm_bad, np.inf, steps.grad_norm), steps.grad_norm_low, steps.grad_norm_high

    limits = {float(value) for steps in view.run.steps for value in steps.max_norm[np.isfinite(steps.max_norm)][-1:]}
    shown = [Limit(value=limit, text=f"clipped above {number(limit)}") for limit in sorted(limits)]
    return _chart(view, "Gradient norm", norm, limits=shown, log=True, note="all layers, before clipping")


def _rate(view: View) -> Markup | None:
    return _chart(view, "Learning rate", lambda steps: (steps.lr, None, None), log=False)


def _scale(view: View) -> Markup | None:
    return _chart(view, "Loss scale", lambda steps: (steps.loss_scale, None, None), log=True)


def _coefficient(view: View) -> Markup | None:
    if not any(bool(np.any(steps.coefficient < 1.0)) for steps in view.run.steps):
        return None
    return _chart(
        view,
        "Clip coefficient",
        lambda steps: (steps.coefficient, None, None),
        note="1 is untouched",
    )


def _chart(
    view: View,
    title: str,
    read: Callable[[Steps], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]],
    *,
    limits: list[Limit] | None = None,
    log: bool | None = None,
    note: str = "",
) -> Markup | None:
    """Return a chart with a curve for each optimizer that knows the quantity, or None where none does."""
    series: list[Series] = []
    for steps in view.run.steps:
        y, low, high = read(steps)
        if np.all(np.isnan(y)):
            continue
        label = optimizer_name(view, steps.optimizer) if view.several_optimizers else ""
        series.append(Series(x=steps.step, y=y, low=low, high=high, label=label, colour=len(series)))
    if not series:
        return None
    under = [note and element("span", note), element("span", extent(series[0])) if len(series) == 1 else None]
    return chart(
        title,
        series,
        steps=view.steps,
        marks=view.marks,
        limits=limits or [],
        log=log,
        note=join(filter(None, under), element("br")),
    )
