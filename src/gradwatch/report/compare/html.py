"""A comparison as a page: ``gradwatch compare -o compare.html``. It needs no script and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.compare import words
from gradwatch.report.compare.comparison import LEVEL
from gradwatch.report.compare.conclusions import conclusions
from gradwatch.report.compare.settings import TABLE
from gradwatch.report.html.axis import Axis, steps_axis
from gradwatch.report.html.curves import Mark, Series, chart
from gradwatch.report.html.markup import Child, Markup, element, join, short
from gradwatch.report.html.page import Section, folded, page, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gradwatch.report.compare.comparison import Comparison
    from gradwatch.report.compare.differences import ParameterDifferences
    from gradwatch.report.compare.outcomes import CurveComparison

GENERATOR = "gradwatch compare"
MOST_LAYER_CHARTS = 12
MOST_LAYER_ROWS = 200
MOST_PARAMETERS = 100
_NAME, _LABEL = 200, 28  # characters of a name or value, and of one beside a chart
# On a phone a table would rather break names than scroll.
_WHOLE, _WIDE = "white-space:nowrap", "display:inline-block;min-width:8rem"


def comparison_page(comparison: Comparison) -> str:
    """Return the page."""
    steps = _steps(comparison)
    return page(
        title=f"{len(comparison.groups)} groups of runs compared",
        heading=_heading(comparison),
        sections=[
            _settings(comparison),
            _curves(comparison, steps),
            _partings(comparison),
            _layers(comparison, steps),
            _happenings(comparison),
            _runs(comparison),
            _method(comparison),
        ],
        footer="Written by gradwatch compare.",
        generator=GENERATOR,
    )


def _heading(comparison: Comparison) -> Markup:
    rows: list[list[Child]] = [
        [
            _letter(index),
            _name(group.name),
            len(group.members),
            _name(", ".join(member.seed or "unknown" for member in group.members)),
            _counts([member.ended for member in group.members]),
        ]
        for index, group in enumerate(comparison.groups)
    ]
    return element(
        "div",
        element("span", "Several runs side by side", class_="word"),
        [
            [element("h1" if not number else "h2", headline), element("p", detail) if detail else None]
            for number, (headline, detail) in enumerate(conclusions(comparison))
        ],
        table(["", "group", "runs", "seeds", "ended"], rows, numeric=[2]),
        class_="verdict",
    )


def _counts(ends: Sequence[str]) -> str:
    return ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))


# -- settings ----------------------------------------------------------------------------------------------------------


def _settings(comparison: Comparison) -> Section:
    rows = [row for row in comparison.settings if row.name != TABLE]
    parts: list[Child] = []
    if rows:
        heads = ["setting", *map(_letter, range(len(comparison.groups)))]
        parts.append(table(heads, [[_name(row.name), *map(_name, row.values)] for row in rows]))
    parts += [_parameters(found, index) for index, found in enumerate(comparison.parameters, start=1) if found]
    if not parts:
        same = "Nothing but the seed." if words.seeds_differ(comparison) else "Nothing, not even the seed."
        parts.append(element("p", same))
    return Section(name="settings", title="What differs in the settings", body=join(parts))


def _parameters(found: ParameterDifferences, index: int) -> Markup:
    told = (("layers added", found.added), ("layers left out", found.removed), ("parameters changed", found.changed))
    counts = ", ".join(f"{len(names):,} {what}" for what, names in told if names)
    return folded(
        [_letter(index), f" has another model: {counts}"],
        [_some(what, names) for what, names in told if names],
        class_="fold",
    )


def _some(what: str, names: Sequence[str]) -> Markup:
    more = f", and {len(names) - MOST_PARAMETERS:,} more" if len(names) > MOST_PARAMETERS else ""
    shown = join([element("code", _name(name)) for name in names[:MOST_PARAMETERS]], ", ")
    return element("p", f"{what}: ", shown, more)


# -- curves ------------------------------------------------------------------------------------------------------------


def _curves(comparison: Comparison, steps: Axis) -> Section | None:
    if not comparison.curves:
        return None
    several = any(len(group.members) > 1 for group in comparison.groups)
    bands = (
        "Lines are means over the runs of a group, bands one standard deviation to both sides; the paler bands reach"
        " from the least to the largest run. Where the axis is logarithmic, so are mean and deviation."
        if several
        else "One run of each, as it was recorded."
    )
    body = join(_chart(comparison, curve, steps) for curve in comparison.curves)
    return Section(name="curves", title="Curves", lead=bands, body=body)


def _chart(comparison: Comparison, curve: CurveComparison, steps: Axis) -> Markup:
    series: list[Series] = []
    for index, band in enumerate(curve.bands()):
        nothing = np.full_like(band.mean, np.nan)
        label = f"{words.letter(index)} {_name(comparison.groups[index].name, _LABEL)}"
        if (band.runs > 1).any():
            series.append(Series(x=curve.steps, y=nothing, low=band.least, high=band.most, colour=index))
        series.append(Series(x=curve.steps, y=band.mean, low=band.low, high=band.high, label=label, colour=index))
    return chart(
        words.curve_name(curve),
        series,
        steps=steps,
        marks=_marks(curve),
        log=curve.domain.logarithmic and _varies(curve),
    )


def _varies(curve: CurveComparison) -> bool:
    """Whether the curve has any range that orders of magnitude could show."""
    finite = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in curve.values])
    return bool(finite.size) and float(finite.max()) > 1.5 * float(finite.min())


def _marks(curve: CurveComparison) -> list[Mark]:
    return [
        Mark(
            step=outcome.step,
            text=f"{words.letter(index)} parts from {words.letter(0)}: {words.where(outcome)}",
            link="#parting",
        )
        for index, outcome in enumerate(curve.outcomes, start=1)
        if outcome is not None and outcome.step is not None
    ]


def _steps(comparison: Comparison) -> Axis:
    every = [curve.steps for curve in comparison.curves if len(curve.steps)]
    if not every:
        return steps_axis(0, 1)
    return steps_axis(min(float(steps[0]) for steps in every), max(float(steps[-1]) for steps in every))


# -- tables ------------------------------------------------------------------------------------------------------------


def _partings(comparison: Comparison) -> Section | None:
    if len(comparison.groups) == 1:
        return None
    lead = "; ".join(
        (f"optimizer {optimizer}: " if len(comparison.aligned) > 1 else "") + alignment.described()
        for optimizer, alignment in comparison.aligned.items()
    )
    body = join(
        [
            element("h3", _letter(index), " against ", _letter(0)) if len(comparison.groups) > 2 else None,  # noqa: PLR2004
            _outcomes(comparison.curves, index),
        ]
        for index in range(1, len(comparison.groups))
    )
    lead = f"{lead[0].upper()}{lead[1:]}." if lead else ""
    return Section(name="parting", title="Where they part", lead=lead or None, body=body)


def _outcomes(curves: Iterable[CurveComparison], index: int) -> Markup:
    first, me = words.letter(0), words.letter(index)
    heads = ["curve", f"{first} at the end", f"{me} at the end", f"{me} / {first}", f"{me} differs (steps)"]
    return table(heads, [_outcome_row(curve, index) for curve in curves], numeric=[1, 2, 3])


def _outcome_row(curve: CurveComparison, index: int) -> list[Child]:
    outcome = curve.outcomes[index - 1]
    parted = outcome is not None and outcome.step is not None
    return [
        element("span", _name(words.curve_name(curve)), style=_WHOLE if curve.layer is None else _WIDE),
        words.curve_ending(curve, 0),
        words.curve_ending(curve, index),
        words.ratio(curve, index),
        element("strong", words.where(outcome)) if parted else words.where(outcome),
    ]


def _layers(comparison: Comparison, steps: Axis) -> Section | None:
    if len(comparison.groups) == 1 or not comparison.layers:
        return None
    parts: list[Child] = []
    for index in range(1, len(comparison.groups)):
        apart = words.layers_apart(comparison, index)
        count = f"{len(apart):,} of {len(comparison.layers):,} layers differ"
        parts.append(element("h3", _letter(index), " against ", _letter(0), f": {count}"))
        if apart:
            parts.append(_outcomes(apart[:MOST_LAYER_ROWS], index))
            charts = [_chart(comparison, curve, steps) for curve in apart[:MOST_LAYER_CHARTS]]
            what = f"Curves of the {len(charts)} that part first" if len(charts) < len(apart) else "Their curves"
            parts.append(folded(what, charts, class_="fold"))
    lead = "The gradient norm of every layer, before clipping; those that part first come first."
    return Section(name="layers", title="Layers", lead=lead, body=join(parts))


def _happenings(comparison: Comparison) -> Section | None:
    if not comparison.happenings:
        return None
    heads = ["what", "", "from step", *map(_letter, range(len(comparison.groups))), "layers"]
    rows = [
        [
            element("span", each.kind, class_=f"badge {'incident' if each.kind == 'incident' else each.severity}"),
            element("strong", _name(each.name)) if each.differs else _name(each.name),
            f"{each.first_step:,}",
            *(f"{count} of {size}" for count, size in zip(each.counts, each.sizes, strict=True)),
            _name(", ".join(each.layers), 80),
        ]
        for each in comparison.happenings
    ]
    differ = sum(each.differs for each in comparison.happenings)
    lead = f"In how many runs of each group; {differ} of {len(rows)} are not as frequent in all groups, and come first."
    return Section(
        name="findings", title="Findings, incidents and ends", lead=lead, body=table(heads, rows, numeric=[2])
    )


def _runs(comparison: Comparison) -> Section:
    rows = [
        [_letter(index), _name(member.label), member.seed or "unknown", member.ended, f"{member.last_step:,}"]
        for index, group in enumerate(comparison.groups)
        for member in group.members
    ]
    notes = element("ul", [element("li", _name(note, 500)) for note in comparison.notes]) if comparison.notes else None
    body = join([table(["", "run", "seed", "ended", "last step"], rows, numeric=[4]), notes])
    return Section(name="runs", title="Runs", body=body)


def _method(comparison: Comparison) -> Section:
    if comparison.one_to_one:
        text = (
            "There is one run of each, so there is no spread to measure a difference by: differences are relative to"
            " the larger of two values, and any difference counts, down to the last bit."
        )
    else:
        text = (
            "Runs are independent, records of one run are not: in each window of a sixteenth of the steps a run is"
            " reduced to its median, and the groups are compared by the two-sample t statistic of these. A difference"
            " counts if as many windows in a row as a window is long are beyond the limit. The limit is that of"
            f" Student's t at a level of {LEVEL:.0%} divided by the number of windows and curves, so that two groups of"
            f" one setting are told apart in at most {LEVEL:.0%} of all comparisons, whatever the correlation within a"
            " run. The place is then looked for in smaller windows. Norms, ratios and positive losses are compared as"
            " logarithms. Of a curve that is not told apart, the difference that would just have been seen is told."
        )
    return Section(name="method", title="How it is decided", body=element("p", text))


# -- pieces ------------------------------------------------------------------------------------------------------------


def _letter(index: int) -> Markup:
    return element("strong", words.letter(index), class_=f"s{index % 6}")


def _name(text: str, limit: int = _NAME) -> str:
    return short(text, limit)
