// All layers at one step, as bars: which of them is large, and against which.

import { NOT_KNOWN } from "./cells.js";
import { button, element, replace } from "./dom.js";
import { steps } from "./formats.js";
import { layerTitle, metricTitle, valueText } from "./readout.js";
import { METRICS } from "./store.js";

/** Return the section of a step: `{element, draw}`. */
export function createStepBars(card) {
  const body = element("div.bars", { tabindex: "0", role: "group", "aria-label": "Layers at this step" });
  const heading = element("h3");
  const order = button(
    "",
    () => {
      bySize = !bySize;
      shown = null;
      card.store.refresh();
    },
    { class: "quiet" },
  );
  const close = button("Close", () => card.store.change({ step: null }), { class: "quiet" });
  const section = element("section.step", {}, element("div.title", {}, heading, order, close), body);
  let bySize = false;
  let shown = null;

  /** Draw the layers that the filter lets pass; `matrices` by metric: see `atStep` in card.js. */
  function draw({ view, visible }, matrices) {
    if (matrices === undefined) return;
    section.hidden = matrices === null;
    if (matrices === null) return;
    const key = [visible, view.metric, view.layer, bySize, ...Object.values(matrices)];
    if (shown && key.length === shown.length && key.every((part, at) => part === shown[at])) return;
    shown = key;
    const first = Object.values(matrices)[0];
    heading.textContent = first?.last.length
      ? `All layers at ${steps(first.first[0], first.last[0])}`
      : "No values at this step";
    order.textContent = bySize ? "In model order" : `By ${metricTitle(view.metric).toLowerCase()}`;
    replace(
      body,
      head(),
      lines(matrices, visible, view, bySize).map((line) => drawLine(line, view, card)),
    );
  }

  return { element: section, draw };
}

const head = () =>
  element(
    "div.line.head",
    {},
    element("span", {}, "Layer"),
    METRICS.map(({ title }) => element("span", {}, title)),
  );

/** Return one line a layer that is shown, in model order or by size: `{name, values, largest}`. */
function lines(matrices, visible, { metric: chosen }, bySize) {
  const [largest, places] = [{}, {}];
  for (const [metric, { layers, values }] of Object.entries(matrices)) {
    largest[metric] = values.reduce((most, value) => (value < Infinity && value > most ? value : most), 0);
    places[metric] = new Map(layers.map((name, index) => [name, index]));
  }
  const at = (metric, name) => matrices[metric].values[places[metric].get(name)] ?? NOT_KNOWN;
  const found = visible.rows
    .flatMap(({ members }) => members)
    .map((index) => {
      const name = visible.names[index];
      return {
        name,
        largest,
        values: Object.fromEntries(Object.keys(matrices).map((metric) => [metric, at(metric, name)])),
      };
    });
  const size = ({ values }) => (Number.isNaN(values[chosen]) ? Infinity : (values[chosen] ?? NOT_KNOWN));
  return bySize ? found.sort((a, b) => (size(a) < size(b)) - (size(a) > size(b))) : found;
}

function drawLine({ name, values, largest }, view, card) {
  const label = button(layerTitle(name, 60), () => card.actions.layer(name), {
    class: "name",
    "data-key": name,
    title: layerTitle(name, 400),
    "aria-pressed": String(view.layer === name),
  });
  return element(
    "div.line",
    {},
    label,
    METRICS.map(({ name: metric }) => bar(values[metric], largest[metric], metric)),
  );
}

function bar(value, most, metric) {
  const bad = !Number.isFinite(value) || (metric === "nonfinite" && value > 0);
  const part = value > 0 && Number.isFinite(value) && most > 0 ? value / most : bad ? 1 : 0;
  const known = value !== NOT_KNOWN && value !== undefined;
  const text = !known ? "–" : metric === "nonfinite" ? String(value) : valueText(value, metric);
  return element(
    `span.bar${bad ? ".bad" : ""}`,
    {},
    element("i", { style: { width: `${Math.max(100 * part, 0)}%` } }),
    element("b", {}, text),
  );
}
