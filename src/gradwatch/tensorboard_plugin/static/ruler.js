// The numbers of the axis of steps.

import { element, replace } from "./dom.js";
import { whole } from "./formats.js";
import { followSteps } from "./gestures.js";

/** Return a lane with the ticks, and the step whose values are shown beside curves: `{gutter, plot, draw, read}`. */
export function createRuler(card) {
  const ticks = element("div.ticks", { "aria-hidden": "true" });
  const plot = element(
    "div.plot.ruler",
    { title: "Drag to zoom, shift and drag to move, Alt and wheel to zoom, double click to see all" },
    ticks,
  );
  const at = element("span.at", { title: "The numbers beside the curves are of this step" });
  const gutter = element("div.gutter.note.ruler-note", {}, at, element("span", {}, "step"));
  let shown = null;
  const pointAgain = followSteps(plot, card, () => shown);

  function draw({ axis }) {
    if (shown && ["first", "last", "width"].every((key) => shown[key] === axis[key])) return;
    shown = axis;
    replace(
      ticks,
      axis.ticks().map((step) => tick(axis.pixel(step), axis.width, whole(step))),
    );
    pointAgain();
  }

  function read(step) {
    at.textContent = `at step ${whole(step)}`;
  }

  return { name: "ruler", gutter, plot, draw, read };
}

const tick = (at, width, text) =>
  element(`span${at > width - 24 ? ".last" : ""}`, { style: { left: `${at}px` } }, text);
