// What the colours mean, in numbers.

import { NONE_COLOUR, NONFINITE_COLOUR, ZERO_COLOUR, css, scaleColours } from "./colours.js";
import { element, replace } from "./dom.js";
import { number, times } from "./formats.js";
import { metricTitle } from "./readout.js";
import { scaleTicks } from "./scales.js";

const OTHERS = "zero, non-finite and not known have colours of their own";
const STOPS = 24;
const WHAT = { relative: ", relative to the layer's running median", counts: " elements of the gradient" };

/** Return the legend: `{element, draw}`. */
export function createLegend() {
  const box = element("div.legend", { role: "img" });
  let shown = null;

  function draw({ metric, mode }, scale, dark) {
    const key = [metric, mode, scale.kind, scale.low, scale.high, dark].join();
    if (key === shown) return;
    shown = key;
    const what = metricTitle(metric) + (WHAT[scale.kind] ?? "");
    const text = scale.kind === "relative" ? times : number;
    const zero = scale.kind === "counts" ? NONE_COLOUR[dark ? "dark" : "light"] : ZERO_COLOUR;
    const ticks = scaleTicks(scale);
    box.setAttribute(
      "aria-label",
      `Colours: ${what}, from ${text(10 ** scale.low)} to ${text(10 ** scale.high)}; ${OTHERS}`,
    );
    replace(
      box,
      element("span.what", {}, what),
      element(
        "span.ramp",
        { style: { background: gradient(scale.kind) } },
        ticks.map(({ value, at }) => element("span", { style: { left: `${100 * at}%` } }, text(value))),
      ),
      swatch(css(zero), scale.kind === "counts" ? "none" : "zero"),
      scale.kind !== "counts" && swatch(css(NONFINITE_COLOUR), "NaN or infinite"),
      element("span.swatch", {}, element("i.hatch"), "not known"),
      element("span.hint", {}, "Drag to zoom · Shift and drag to move · Alt and wheel · double click for all"),
    );
  }

  return { element: box, draw };
}

const swatch = (colour, label) => element("span.swatch", {}, element("i", { style: { background: colour } }), label);

function gradient(kind) {
  const colours = scaleColours(kind);
  const stops = Array.from({ length: STOPS + 1 }, (_, at) =>
    css(colours[Math.round((at * (colours.length - 1)) / STOPS)]),
  );
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
