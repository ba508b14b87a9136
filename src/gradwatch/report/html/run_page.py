"""The page of one run, from its model to HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.report.html.formats import moment
from gradwatch.report.html.markup import short
from gradwatch.report.html.page import page
from gradwatch.report.html.sections.cells import cells_of
from gradwatch.report.html.sections.checks import checks_section
from gradwatch.report.html.sections.clipping import clipping_section
from gradwatch.report.html.sections.curves import curves_section
from gradwatch.report.html.sections.environment import environment_section
from gradwatch.report.html.sections.events import events_section
from gradwatch.report.html.sections.heatmaps import heatmaps_section
from gradwatch.report.html.sections.last_steps import last_steps_section
from gradwatch.report.html.sections.layers import layer_data, layers_section
from gradwatch.report.html.sections.opening import opening
from gradwatch.report.html.sections.view import view_of

if TYPE_CHECKING:
    from gradwatch.report.run import Run


def run_page(run: Run) -> str:
    """Return the page of ``run``: verdict first, then what led to it, down to the settings."""
    view = view_of(run)
    cells = cells_of(run)
    return page(
        title=f"{view.verdict.headline[:1].upper()}{short(view.verdict.headline[1:], 120)} · gradwatch",
        heading=opening(view),
        sections=[
            events_section(view),
            curves_section(view),
            heatmaps_section(view, cells),
            layers_section(view, cells),
            checks_section(view),
            clipping_section(view),
            last_steps_section(view),
            environment_section(view),
        ],
        script="report.js",
        data={"layer-data": layer_data(view, cells)},
        footer=f"Made by gradwatch from {run.folder}, as written until {moment(run.last_time)}. "
        "Values shown by pointing are exact to three digits; the event log has all digits.",
    )
