// One run: its heatmap, what happened, its curves, all on the axis of steps.

import { stepAxis } from "./axis.js";
import { columnAt } from "./picture.js";
import { createChecks } from "./checks.js";
import { rowAt } from "./chart.js";
import { button, element, replace, short } from "./dom.js";
import { countsText, createEvents } from "./events.js";
import { steps } from "./formats.js";
import { settled } from "./gestures.js";
import { createHeatmap } from "./heatmap.js";
import { broken } from "./notices.js";
import { layerTitle } from "./readout.js";
import { layersOf } from "./requests.js";
import { createRuler } from "./ruler.js";
import { createStepBars } from "./step_bars.js";
import { METRICS } from "./store.js";
import { layerStrips, runStrips } from "./strips.js";
import { createTimeline } from "./timeline.js";

/**
 * Return the card of a run: `{element, draw, point}`.
 *
 * @param {object} app what all cards share: `store`, `data`, `bounds()`, `point(step)`.
 */
export function createCard(app, run) {
  const { store, data } = app;
  const card = {
    run,
    store,
    bounds: app.bounds,
    point: app.point,
    zoom: (range) => store.change({ zoom: settled(range, app.bounds()) }),
    actions: {
      fold: (path) => store.change({ folded: toggled(store.view.folded, path) }),
      layer: (name) => store.change({ layer: store.view.layer === name ? null : name }),
      step: (step) => store.change({ step: Math.round(Math.min(Math.max(step, card.run.first), card.run.last)) }),
      event: (id) => store.change({ event: store.view.event === id ? null : id }),
    },
  };
  const title = element("h2", { title: short(run.name, 400) }, short(run.name || ".", 120));
  const summary = element("span.note");
  const problem = element("div");
  const heatmap = createHeatmap(card);
  const timeline = createTimeline(card);
  const [top, bottom] = [createRuler(card), createRuler(card)];
  const runCharts = runStrips(card);
  const layerCharts = layerStrips(card);
  const layerHead = element("div.section", { hidden: true });
  const hair = element("div.hair", { hidden: true });
  const chosen = element("div.hair.chosen", { hidden: true });
  const deaths = element("div");
  const lanes = [heatmap, top, timeline, ...runCharts];
  const plots = element(
    "div.plots",
    {},
    lanes.flatMap(({ gutter, plot }) => [gutter, plot]),
    layerHead,
    [...layerCharts, bottom].flatMap(({ gutter, plot }) => [gutter, plot]),
    element("div.hairs", {}, deaths, hair, chosen),
  );
  const [bars, events, checks] = [createStepBars(card), createEvents(card), createChecks(card)];
  const article = element(
    "article.card",
    { "data-run": run.name },
    element("div.title", {}, title, summary),
    problem,
    plots,
    heatmap.live,
    bars.element,
    events.element,
    checks.element,
  );

  /** Draw the run as `view` and `shared` (range, scale, visible layers by matrix) want it. */
  function draw(view, shared, now) {
    card.run = now;
    const { matrix, error } = shared.pictures.get(now.name) ?? {};
    const happened = data.events(now);
    const curves = now.rows ? data.curves(now, view.optimizer) : {};
    showTrouble(problem, now, error ?? happened.error ?? curves.error);
    plots.hidden = !matrix;
    const told = happened.value ?? NOTHING;
    const happenings = shared.happenings(now);
    summary.textContent = now.rows
      ? [steps(now.first, now.last), countsText(now.findings, now.incidents), ending(told)].filter(Boolean).join(" · ")
      : "";
    const width = plots.querySelector(".plot:not([hidden])")?.clientWidth ?? 0;
    const axis = stepAxis(shared.range, width);
    const context = {
      view,
      axis,
      dark: shared.dark,
      scale: shared.scale,
      matrix,
      visible: matrix && shared.visible(matrix),
    };
    if (matrix && width) drawLanes(context, now, happenings);
    events.draw(context, happenings);
    checks.draw(told.checks);
    drawStep(context, now);
    placeHair(chosen, axis, view.step);
    card.axis = axis;
  }

  function drawLanes(context, now, happenings) {
    heatmap.draw(context);
    timeline.draw(context, happenings);
    drawDeaths(deaths, context.axis, happenings);
    top.draw(context);
    const curves = data.curves(now, context.view.optimizer).value;
    for (const lane of runCharts) lane.draw(context, curves);
    const { layer } = context.view;
    const layers = layersOf(now, context.view.optimizer);
    const known = layer !== null && layers.includes(layer);
    const values = known ? data.layer(now, context.view.optimizer, layers.indexOf(layer)).value : null;
    layerHead.hidden = !known;
    if (known)
      replace(
        layerHead,
        element("h3", { title: layerTitle(layer, 400) }, `Layer ${layerTitle(layer, 80)}`),
        button("Close", () => store.change({ layer: null }), { class: "quiet" }),
      );
    for (const lane of layerCharts) lane.draw(context, values);
    bottom.draw(context);
  }

  function drawStep(context, now) {
    const { step, optimizer } = context.view;
    const curves = step === null ? null : data.curves(now, optimizer).value;
    const row = curves ? rowAt(curves, step) : -1;
    if (row < 0 || !context.matrix || columnAt(context.matrix, step) < 0) return bars.draw(context, null);
    const [from, to] = [curves.first[row], curves.last[row]];
    const found = METRICS.map(({ name: metric }) => [
      metric,
      data.matrix(now, { metric, optimizer, from, to, columns: 1 }).value,
    ]);
    if (found.every(([, matrix]) => matrix)) bars.draw(context, Object.fromEntries(found));
  }

  /** Show where the pointer is in any of the cards, and the values there. */
  function point(step) {
    if (!card.axis) return;
    placeHair(hair, card.axis, step);
    for (const lane of [...runCharts, ...layerCharts]) lane.read(step);
  }

  return { element: article, draw, point };
}

/** Say why a run cannot be shown, or what of it is missing. */
function showTrouble(box, { note, rows }, error) {
  if (error) replace(box, broken(short(error.message, 600)));
  else if (note && !rows) replace(box, broken(short(note, 600)));
  else replace(box, note && element("p.note", {}, short(note, 600)));
}

function placeHair(hair, axis, step) {
  const inside = step !== null && step >= axis.first - 0.5 && step <= axis.last + 0.5;
  hair.hidden = !inside;
  if (inside) hair.style.left = `${axis.pixel(Math.round(step))}px`;
}

/** Draw a line through all panels where something became non-finite. */
function drawDeaths(box, axis, happenings) {
  const inView = happenings.filter(
    (one) => one.severity === "incident" && one.from >= axis.first && one.from <= axis.last,
  );
  replace(
    box,
    inView
      .slice(0, MOST_LINES)
      .map((one) => element("div.hair.incident", { style: { left: `${axis.pixel(one.from)}px` } })),
  );
}

/** Return how a run ended, in words; nothing of one that is running, or was killed. */
function ending({ starts, ends }) {
  const end = ends.at(-1);
  if (!end || (starts.at(-1)?.time ?? 0) > end.time) return null;
  return end.status === "nonfinite" ? "died of a non-finite value" : short(end.status, 40);
}

const MOST_LINES = 50;
const NOTHING = { findings: [], incidents: [], checks: [], starts: [], ends: [] };

const toggled = (paths, path) => (paths.includes(path) ? paths.filter((other) => other !== path) : [...paths, path]);
