"""What clipping did: how often, against which norms, and which limit those norms suggest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.html.formats import UNKNOWN, count, known, number, share
from gradwatch.report.html.markup import Child, Markup, element, join
from gradwatch.report.html.page import Section, facts, table
from gradwatch.report.html.sections.view import View, optimizer_name

if TYPE_CHECKING:
    from gradwatch.report.steps import Steps

PERCENTILES = (5, 25, 50, 75, 90, 95, 99)
# As the rules on clipping have it: a limit that one step in ten exceeds cuts off what is unusual.
USUAL_PERCENTILE = 90.0
RECENT = 200  # records
FEWEST = 20  # records to suggest anything by


def clipping_section(view: View) -> Section | None:
    """Return the section of clipping, or None for a run without records."""
    parts = [_optimizer(view, steps) for steps in view.run.steps if len(steps)]
    if not parts:
        return None
    start = view.run.start
    rule = facts(
        [
            ("limit", "gradwatch does not clip" if start.clip.max_norm is None else number(start.clip.max_norm)),
            ("because of", start.clip.reason),
            ("family", start.clip.family),
            ("where it comes from", start.clip.source),
        ]
        if start
        else []
    )
    return Section(name="clipping", title="Clipping", body=join([rule, *parts]))


def _optimizer(view: View, steps: Steps) -> Markup:
    taken, clipped = int(steps.window_steps.sum()), int(steps.window_clipped.sum())
    touched = steps.coefficient[steps.coefficient < 1.0]
    rows: list[tuple[Child, Child]] = [
        ("clipped", f"{count(clipped)} of {count(taken, 'step')} ({share(clipped / taken)})" if taken else UNKNOWN),
        (
            "median coefficient",
            f"{number(float(np.median(touched)))}" if touched.size else "no record is of a clipped step",
        ),
        ("norms suggest", _suggestion(steps)),
    ]
    heading = element("h3", optimizer_name(view, steps.optimizer)) if view.several_optimizers else None
    return join([heading, facts(rows), _percentiles(steps)])


def _suggestion(steps: Steps) -> str | None:
    """Return the limit that the last norms suggest, with two digits, as a person would set it."""
    recent = steps.grad_norm[np.isfinite(steps.grad_norm)][-RECENT:]
    if recent.size < FEWEST:
        return None
    limit = float(f"{np.percentile(recent, USUAL_PERCENTILE):.2g}")
    return f"a limit of {number(limit)}: one step in ten of the last {count(recent.size, 'record')} exceeds it"


def _percentiles(steps: Steps) -> Markup | None:
    norms = steps.grad_norm[np.isfinite(steps.grad_norm)]
    if not norms.size:
        return None
    highs = np.where(np.isfinite(steps.grad_norm_high), steps.grad_norm_high, -np.inf)
    peak = int(highs.argmax())
    heads = ["gradient norm", "least", *(f"{part} %" for part in PERCENTILES), "largest", "at step"]
    where = steps.grad_norm_max_step[peak]
    at = count(int(where if np.isfinite(where) and where >= 0 else steps.step[peak]))
    values = [known(float(value)) for value in np.percentile(norms, PERCENTILES)]
    row: list[Child] = ["at records", number(float(norms.min())), *values, known(float(highs[peak])), at]
    return table(heads, [row], numeric=range(1, len(heads)))
