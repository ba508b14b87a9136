"""A picture and an example of each health rule, from its planted fault and the healthy twin. Writes ``docs/rules``.

``make rule-pictures`` trains all of them (about two minutes); with ``--codes``, only some. ``--pages`` trains nothing:
it writes the pages anew from the catalogue and from the examples that are there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rule_quantities import Points, Quantity, finite, quantity_of, rank_lines
from benchmarks.rule_runs import both, fault, first_case
from gradwatch.detectors.catalogue import pages
from gradwatch.detectors.catalogue.families import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from benchmarks.rule_runs import Run
    from gradwatch.records import Finding

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = DOCS / "rules"
PICTURES = DOCS / "images" / "rules"
EXAMPLES = PAGES / "examples.json"

FAULT, TWIN, GREY = "#d55e00", "#0072b2", "#555555"
LIMIT = "#888888"
SIZE = (6.6, 2.7)
APART = 0.1  # of the height of the axes, between two labels
FEW_DECADES = 150.0
MARKED = 40  # points, up to which each one is drawn
DIGITS = 4
# What the evidence calls the step that a finding is about, where that is not the log step at which it opens.
EVENTS = ("step", "jump_step", "restart_step", "at_step")


class Line(NamedTuple):
    """One curve and what stands beside it."""

    name: str
    points: Points
    colour: str
    style: str = "-"


class Picture(NamedTuple):
    """All that is drawn: curves (the first has the fault), thresholds, where the finding opens and of which step."""

    label: str
    lines: list[Line]
    limit: float | None
    twin_limit: float | None
    mark: float | None
    event: float | None
    quantity: Quantity


def picture_of(code: str, faulty: Run, twin: Run) -> Picture:
    """Put together what the picture of a rule shows."""
    quantity, finding = quantity_of(code), faulty.finding
    layer = None if finding is None else finding.layer
    lines = [
        Line("with the fault", finite(quantity.read(faulty, layer)), FAULT),
        Line("without it", finite(quantity.read(twin, layer)), TWIN),
    ]
    if len(faulty.steps) > 1:
        lines = [
            Line(name, finite(points), TWIN if "without" in name else FAULT, style)
            for name, points, style in rank_lines(code, faulty, twin, layer)
        ]
    limit, twin_limit = quantity.limit(faulty, layer), None
    if quantity.twin_limit:
        twin_limit = quantity.limit(twin, layer)
    mark = event = None
    if finding is not None and lines[0].points:
        mark = lines[0].points[-1][0] if quantity.at_end else float(finding.step)
        event = next((float(finding.evidence[name]) for name in EVENTS if name in finding.evidence), mark)
    return Picture(quantity.label.format(layer=layer), lines, limit, twin_limit, mark, event, quantity)


def described(picture: Picture, finding: Finding) -> str:
    """Return in words what is to be seen."""
    names = picture.quantity.ticks
    parts = [f"{line.name}: {_range(line.points, names, picture.quantity.absent)}" for line in picture.lines]
    if picture.limit is not None:
        parts.append(f"{picture.quantity.threshold}: {_number(picture.limit)}")
    if picture.twin_limit is not None:
        parts.append(f"{picture.quantity.threshold} without the fault: {_number(picture.twin_limit)}")
    label = f"{picture.label[:1].upper()}{picture.label[1:]}, by {picture.quantity.x}"
    return f"{label}: {'; '.join(parts)}. The finding opens at step {finding.step}."


def _range(points: Points, names: dict[float, str], absent: str) -> str:
    if not points:
        return absent
    low, high = (names.get(value) or _number(value) for value in (pick(y for _, y in points) for pick in (min, max)))
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.2g}"


def draw(picture: Picture, finding: Finding, path: Path) -> None:
    """Draw one picture as an SVG whose text is text."""
    import matplotlib as mpl  # noqa: PLC0415 - only who draws needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.rcParams.update(
        {
            "svg.hashsalt": "gradwatch",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9,
        }
    )
    figure, axes = plt.subplots(figsize=SIZE)
    figure.subplots_adjust(left=0.115, right=0.79, top=0.81, bottom=0.17)
    once = len({x for line in picture.lines for x, _ in line.points}) == 1
    for line in picture.lines:
        shown = [(x, y) for x, y in line.points if y > 0 or not picture.quantity.log]
        x, y = [x for x, _ in shown], [y for _, y in shown]
        if once:
            axes.bar(x, y, 0.2, color=line.colour, zorder=3)
            continue
        marker = "o" if len(shown) <= MARKED else None
        axes.plot(x, y, line.style, color=line.colour, lw=1.6, marker=marker, ms=3.2, clip_on=False, zorder=3)
    _set_axes(axes, picture)
    for limit, colour in ((picture.limit, LIMIT), (picture.twin_limit, TWIN)):
        if limit is not None:
            axes.axhline(limit, color=colour, lw=1.2, ls=(0, (4, 2)), zorder=2)
    _mark(axes, picture, finding)
    _label(axes, picture)
    axes.text(0, 1.17, picture.label, transform=axes.transAxes, fontweight="bold", color="#222222", va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    plt.close(figure)
    path.write_text(rounded(path.read_text(encoding="utf-8")), encoding="utf-8")


def rounded(svg: str) -> str:
    """Return the picture with coordinates to a hundredth of a point, finer than any screen: half of the file."""
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)


def _set_axes(axes: Axes, picture: Picture) -> None:
    from matplotlib import ticker  # noqa: PLC0415 - as above

    quantity = picture.quantity
    values = [y for line in picture.lines for _, y in line.points]
    values += [limit for limit in (picture.limit, picture.twin_limit) if limit is not None]
    if quantity.log:
        values = [value for value in values if value > 0]
        low, high = min(values), max(values)
        room = max((high / low) ** 0.08, 1.5)
        axes.set_yscale("log")
        axes.set_ylim(low / room, high * room)
        few = high / low < FEW_DECADES
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if few else (1,), numticks=6))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        if few:
            axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        low = min(values) if quantity.lowest is None else quantity.lowest
        high = max(values) if quantity.highest is None else quantity.highest
        room = 0.06 * ((high - low) or abs(high) or 1.0)
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{round(value, 12):g}"))
    if quantity.ticks:
        axes.set_yticks(list(quantity.ticks), list(quantity.ticks.values()))
    places = [x for line in picture.lines for x, _ in line.points]
    room = 0.02 * (max(places) - min(places)) or 1.0
    axes.set_xlim(min(places) - room, max(places) + room)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    if len(set(places)) == 1:
        axes.set_xticks(places[:1])
    axes.set_xlabel(quantity.x, color=GREY)
    axes.tick_params(colors=GREY, length=3)
    axes.grid(alpha=0.25, lw=0.6)
    for name, spine in axes.spines.items():
        spine.set_visible(name in {"left", "bottom"})
        spine.set_color("#aaaaaa")


def _mark(axes: Axes, picture: Picture, finding: Finding) -> None:
    """Mark where the finding opens, on the curve with the fault."""
    if picture.mark is None or picture.event is None:
        return
    points = picture.lines[0].points
    before = [point for point in points if point[0] <= picture.event] or points[:1]
    x, y = before[-1]
    if len({x for line in picture.lines for x, _ in line.points}) > 1 and (y > 0 or not picture.quantity.log):
        axes.plot([x], [y], "o", ms=8, mfc="none", mec="#222222", mew=1.4, zorder=4, clip_on=False)
    axes.axvline(picture.mark, color="#222222", lw=0.8, zorder=1)
    left, right = axes.get_xlim()
    place = (picture.mark - left) / (right - left)
    align = "left" if place < 0.12 else "right" if place > 0.88 else "center"
    axes.text(place, 1.02, f"found at step {finding.step}", transform=axes.transAxes, ha=align, va="bottom")


def _label(axes: Axes, picture: Picture) -> None:
    """Write beside each curve and the threshold what it is, without overlap."""
    labels: list[tuple[float, str, str]] = []
    for line in picture.lines:
        known = [y for _, y in line.points if y > 0 or not picture.quantity.log]
        end = _height(axes, known[-1]) if known else 2 * APART
        labels.append((end, line.name if line.points else f"{line.name}:\n{picture.quantity.absent}", line.colour))
    for limit, colour in ((picture.limit, GREY), (picture.twin_limit, TWIN)):
        if limit is not None:
            labels.append((_height(axes, limit), picture.quantity.threshold, colour))
    lowest = -math.inf
    places = []
    for end, name, colour in sorted(labels, key=lambda label: label[0]):
        lowest = max(end, lowest + APART * (1 + name.count("\n")))
        places.append((lowest, name, colour))
    over = max(0.0, places[-1][0] - 1.0)
    for place, name, colour in places:
        axes.text(1.015, place - over, name, transform=axes.transAxes, color=colour, va="center")


def _height(axes: Axes, y: float) -> float:
    """Return where a value lies in the axes, 0 to 1."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((0, y)))[1])


def example_of(code: str, finding: Finding, alt: str) -> pages.Example:
    """Return the example that the page of a rule shows."""
    return pages.Example(
        fault=fault(first_case(code)),
        step=finding.step,
        severity=finding.severity,
        layer=finding.layer,
        message=_portable(finding.message),
        evidence={name: _portable(value) for name, value in finding.evidence.items()},
        picture=alt,
    )


def _portable(value: Any) -> Any:
    """Return what does not depend on where the repository lies, with the digits that matter."""
    if isinstance(value, str):
        return value.replace(f"{DOCS.parent}/", "")
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: _portable(item) for name, item in value.items()}
    return [_portable(item) for item in value] if isinstance(value, list) else value


def write_pages(examples: dict[str, pages.Example]) -> None:
    """Write the table of contents and a page for each rule."""
    (PAGES / "README.md").write_text(pages.contents(), encoding="utf-8")
    for code, rule in RULES.items():
        (PAGES / f"{code}.md").write_text(pages.page(rule, example=examples.get(code)), encoding="utf-8")


def make(codes: Sequence[str]) -> None:
    """Train, draw, and write the examples down."""
    examples = pages.read_examples(EXAMPLES) if EXAMPLES.exists() else {}
    for code in track(codes, "rules", console=Console(stderr=True)):
        faulty, twin = both(first_case(code))
        finding = faulty.finding
        if finding is None:
            raise RuntimeError(f"{code} was not found in {first_case(code).name}")
        picture = picture_of(code, faulty, twin)
        draw(picture, finding, PICTURES / f"{code}.svg")
        examples[code] = example_of(code, finding, described(picture, finding))
    ordered = {code: examples[code]._asdict() for code in RULES if code in examples}
    PAGES.mkdir(parents=True, exist_ok=True)
    EXAMPLES.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Draw all pictures, or those that are asked for, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", nargs="+", default=list(RULES), metavar="CODE", help="only these rules")
    parser.add_argument("--pages", action="store_true", help="train nothing, write the pages anew")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("gradwatch").setLevel(logging.ERROR)
    if not arguments.pages:
        make(arguments.codes)
    write_pages(pages.read_examples(EXAMPLES))


if __name__ == "__main__":
    main()
