"""Every layer in a table, each leading to its curves; and the values that the script draws them from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.report.html.curves import Series, chart
from gradwatch.report.html.embed import packed
from gradwatch.report.html.formats import count, known, number
from gradwatch.report.html.markup import Child, Markup, element, join, plain, short
from gradwatch.report.html.page import Section, search_field, table
from gradwatch.report.html.sections.cells import METRICS, Cells, Quantity
from gradwatch.report.html.sections.view import View, optimizer_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_ROWS = 10_000
MOST_OUTSTANDING = 5
RISE = 10.0  # above a layer's own median: far outside of the noise of batches


def layers_section(view: View, cells: Sequence[Cells]) -> Section | None:
    """Return the section of the single layers, or None for a run without any."""
    if not cells:
        return None
    heads = [
        "layer",
        "gradient norm, median",
        "largest",
        "at step",
        "weight norm, first",
        "last",
        "update ratio, median",
    ]
    heads += ["columns not finite"]
    rows = [row for one in cells for row in _rows(view, one)]
    body = join(
        [
            _outstanding(cells),
            search_field("Find a layer", "layer-table"),
            table(heads, rows[:MOST_ROWS], numeric=range(1, 8), id="layer-table"),
            _panel(view),
        ]
    )
    lead = element(
        "span",
        f"{count(sum(len(one.names) for one in cells), 'layer')}. ",
        element("span", "Choose one here or in a heatmap to see its curves.", class_="scripted", hidden=True),
    )
    return Section(name="single", title="Single layers", body=body, lead=lead)


def layer_data(view: View, cells: Sequence[Cells]) -> dict[str, Any]:
    """Return what the script needs for exact values and single curves."""
    return {
        "first": view.steps.low,
        "last": view.steps.high,
        "optimizers": {
            str(one.optimizer): {
                "layers": [plain(name) for name in one.names],
                "first": one.columns.first.tolist(),
                "last": one.columns.last.tolist(),
                **{name: packed(quantity.values, quantity.nonfinite) for name, quantity in one.quantities.items()},
            }
            for one in cells
        },
    }


def _rows(view: View, cells: Cells) -> Iterator[list[Child]]:
    grad, weight, ratio = (cells.quantities[name] for name in METRICS)
    largest = np.where(np.isnan(grad.values), -np.inf, grad.values)
    top = largest.argmax(axis=0)
    first, last = _ends(weight)
    bad = (grad.nonfinite | weight.nonfinite | ratio.nonfinite).sum(axis=0)
    where = f" ({optimizer_name(view, cells.optimizer)})" if view.several_optimizers else ""
    for at, name in enumerate(cells.names):
        peak = largest[top[at], at]
        yield [
            element(
                "span",
                f"{short(name, 60) or 'the model itself'}{where}",
                data_layer=at,
                data_optimizer=cells.optimizer,
                title=short(name, 500),
            ),
            known(float(grad.medians[at])),
            known(float(peak) if np.isfinite(peak) else np.nan),
            count(int(cells.columns.last[top[at]])) if np.isfinite(peak) else known(np.nan),
            first[at],
            last[at],
            known(float(ratio.medians[at])),
            count(int(bad[at])),
        ]


def _outstanding(cells: Sequence[Cells]) -> Markup | None:
    """Return the layers that rose farthest above their own median, or None where none stands out."""
    found = []
    for one in cells:
        quantity = one.quantities["grad_norm"]
        ratio = np.where(np.isnan(quantity.relative), 0.0, quantity.relative)
        top = ratio.argmax(axis=0)
        for layer in np.argsort(-ratio.max(axis=0), kind="stable")[:MOST_OUTSTANDING].tolist():
            rise = float(ratio[top[layer], layer])
            if rise >= RISE:
                found.append((rise, one, layer, int(one.columns.last[top[layer]])))
    if not found:
        return None
    found.sort(key=lambda entry: -entry[0])
    items = [
        element(
            "li",
            element("b", short(one.names[layer], 80), data_layer=layer, data_optimizer=one.optimizer),
            f" rose to {number(rise, 3)} times its median, step {count(step)}",
        )
        for rise, one, layer, step in found[:MOST_OUTSTANDING]
    ]
    return join([element("p", "Gradients that rose far above what is usual for their layer:"), element("ul", items)])


def _ends(quantity: Quantity) -> tuple[list[str], list[str]]:
    """Return the first and the last of what is known of each layer."""
    there = quantity.nonfinite | ~np.isnan(quantity.values)
    first, last = there.argmax(axis=0), len(there) - 1 - there[::-1].argmax(axis=0)
    return _told(quantity, first), _told(quantity, last)


def _told(quantity: Quantity, columns: np.ndarray) -> list[str]:
    """Return what each layer had at a column of its own."""
    layers = np.arange(columns.size)
    cells = zip(quantity.values[columns, layers].tolist(), quantity.nonfinite[columns, layers].tolist(), strict=True)
    return ["not finite" if bad else known(value) for value, bad in cells]


def _panel(view: View) -> Markup:
    """Return charts without a curve, which the script fills when a layer is chosen."""
    nothing = Series(x=np.zeros(0), y=np.zeros(0))
    charts = [
        element("div", chart(title, [nothing], steps=view.steps, marks=view.marks), data_metric=name)
        for name, title in METRICS.items()
    ]
    title = element("h3", id="layer-name", tabindex="-1", aria_live="polite")
    return element("div", title, charts, id="layer", class_="scripted", hidden=True)
