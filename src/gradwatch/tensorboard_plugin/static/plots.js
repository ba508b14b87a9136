// The panels of a run, one below the other on the axis of steps.

import { button, element, replace } from "./dom.js";
import { createHairs } from "./hairs.js";
import { createHeatmap } from "./heatmap.js";
import { layerTitle } from "./readout.js";
import { layersOf } from "./requests.js";
import { createRuler } from "./ruler.js";
import { layerStrips, runStrips } from "./strips.js";
import { createTimeline } from "./timeline.js";

const NONE = { value: null, error: null };

/** Return the panels: `{element, live, width, draw, point}`. `card` is what the lanes of a run share. */
export function createPlots(card, data) {
  const heatmap = createHeatmap(card);
  const timeline = createTimeline(card);
  const [top, bottom] = [createRuler(card), createRuler(card)];
  const [runCharts, layerCharts] = [runStrips(card), layerStrips(card)];
  const layerHead = element("div.section", { hidden: true });
  const hairs = createHairs();
  const cells = (lanes) => lanes.flatMap(({ gutter, plot }) => [gutter, plot]);
  const above = cells([heatmap, top, timeline, ...runCharts]);
  const plots = element("div.plots", {}, above, layerHead, cells([...layerCharts, bottom]), hairs.element);
  let pointed = null; // the step under the pointer, be it in another run
  let usual = null; // the step to read where there is no pointer

  /** Draw all of them; return the error if an answer was lost. */
  function draw(context, run, happenings) {
    const { view, axis } = context;
    for (const lane of [heatmap, top, bottom]) lane.draw(context);
    timeline.draw(context, happenings);
    hairs.draw(axis, view.step, happenings);
    const curves = data.curves(run, view.optimizer);
    for (const lane of runCharts) lane.draw(context, curves.value);
    const error = drawLayer(context, run) ?? curves.error;
    usual = view.step ?? Math.min(axis.last, curves.value?.last.at(-1) ?? run.last);
    read();
    return error;
  }

  /** Show the values at the pointer; without one at the open step, else at the last in view. */
  function read() {
    const step = Math.round(pointed ?? usual);
    for (const lane of [top, ...runCharts, ...layerCharts]) lane.read(step);
  }

  function drawLayer(context, run) {
    const { layer, optimizer } = context.view;
    const index = layersOf(run, optimizer).indexOf(layer);
    const { value, error } = index < 0 ? NONE : data.layer(run, optimizer, index);
    layerHead.hidden = index < 0;
    if (index >= 0) replace(layerHead, layerHeading(layer, card.store));
    for (const lane of layerCharts) lane.draw(context, value);
    return error;
  }

  return {
    element: plots,
    live: heatmap.live,
    draw,
    /** Return how wide the axis is, in CSS pixels. */
    width: () => heatmap.plot.clientWidth,
    /** Show where the pointer is, be it in another run, and the values there. */
    point(axis, step) {
      pointed = step;
      hairs.point(axis, step);
      read();
    },
  };
}

function layerHeading(layer, store) {
  return [
    element("h3", { title: layerTitle(layer, 400) }, `Layer ${layerTitle(layer, 80)}`),
    button("Close", () => store.change({ layer: null }), { class: "quiet", "data-key": "close" }),
  ];
}
