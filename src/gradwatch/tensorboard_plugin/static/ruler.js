// The numbers of the axis of steps.

import { element, replace } from "./dom.js";
import { whole } from "./formats.js";
import { followPointer } from "./gestures.js";

/** Return a lane with the ticks: `{gutter, plot, draw}`. */
export function createRuler(card) {
  const ticks = element("div.ticks", { "aria-hidden": "true" });
  const plot = element(
    "div.plot.ruler",
    { title: "Drag to zoom, shift and drag to move, Alt and wheel to zoom, double click to see all" },
    ticks,
  );
  const gutter = element("div.gutter.note", {}, "step");
  let shown = null;

  followPointer(plot, {
    axis: () => shown,
    bounds: card.bounds,
    zoom: (zoom) => card.store.change({ zoom }),
    choose: (x) => card.actions.step(shown.step(x)),
    point: (x) => card.point(x === null ? null : shown.step(x)),
  });

  function draw({ axis }) {
    if (shown && ["first", "last", "width"].every((key) => shown[key] === axis[key])) return;
    shown = axis;
    replace(
      ticks,
      axis.ticks().map((step) => tick(axis.pixel(step), axis.width, whole(step))),
    );
  }

  return { name: "ruler", gutter, plot, draw };
}

const tick = (at, width, text) =>
  element(`span${at > width - 24 ? ".last" : ""}`, { style: { left: `${at}px` } }, text);
