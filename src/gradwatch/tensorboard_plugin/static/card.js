// One run: its panels, and below them its layers at a step, what happened, its gradient checks.

import { stepAxis } from "./axis.js";
import { rowAt } from "./chart.js";
import { createChecks } from "./checks.js";
import { element, replace, short } from "./dom.js";
import { countsText, createEvents } from "./events.js";
import { steps } from "./formats.js";
import { settled } from "./gestures.js";
import { broken } from "./notices.js";
import { columnAt } from "./picture.js";
import { createPlots } from "./plots.js";
import { lacks } from "./requests.js";
import { createStepBars } from "./step_bars.js";
import { METRICS } from "./store.js";

const NOTHING = { findings: [], incidents: [], checks: [], starts: [], ends: [] };

/**
 * Return the card of a run: `{element, draw, point}`.
 *
 * @param {object} app what all cards share: `store`, `data`, `bounds()`, `point(step)`.
 */
export function createCard(app, run) {
  const { data } = app;
  const card = sharedParts(app, run);
  const summary = element("span.note");
  const problem = element("div.trouble");
  const plots = createPlots(card, data);
  plots.element.hidden = true;
  const [bars, events, checks] = [createStepBars(card), createEvents(card), createChecks(card)];
  const title = element("h2", { title: short(run.name, 400) }, short(run.name || ".", 120));
  const head = element("div.title", {}, title, summary);
  const sections = [bars, events, checks].map((section) => section.element);
  const article = element("article.card", {}, head, problem, plots.element, plots.live, sections);

  /** Draw the run as it is `now`; `shared` is what `createShared` has prepared. */
  function draw({ view, ...shared }, now) {
    card.run = now;
    const picture = shared.pictures.get(now.name);
    const { matrix, error } = picture ?? {};
    const answer = data.events(now);
    const told = answer.value ?? NOTHING;
    const happenings = shared.happenings(now);
    summary.textContent = summaryOf(now, told);
    // A picture stays until the next one has come: a page that shrinks and grows again loses its reader's place.
    const isLate = picture && !matrix && !error && !plots.element.hidden;
    plots.element.hidden = !matrix && !isLate;
    card.axis = stepAxis(shared.range, plots.width());
    const context = { ...shared, view, axis: card.axis, matrix, visible: matrix && shared.visible(matrix) };
    const lost = matrix && card.axis.width ? plots.draw(context, now, happenings) : null;
    replace(problem, trouble(now, told, view, error ?? answer.error ?? lost, Boolean(matrix)));
    events.draw(context, happenings);
    checks.draw(told.checks);
    if (!isLate) bars.draw(context, matrix ? atStep(data, now, view, matrix) : null);
  }

  return { element: article, draw, point: (step) => card.axis && plots.point(card.axis, step) };
}

/** Return what the parts of a card share: the run as it is now, and what a reader can do. */
function sharedParts({ store, bounds, point }, run) {
  const toggled = (key, value) => store.change({ [key]: store.view[key] === value ? null : value });
  const card = {
    run,
    store,
    bounds,
    point,
    axis: null,
    zoom: (range) => store.change({ zoom: settled(range, bounds()) }),
    actions: {
      fold: (path) => store.change({ folded: withOrWithout(store.view.folded, path) }),
      layer: (name) => toggled("layer", name),
      event: (id) => toggled("event", id),
      step: (step) => store.change({ step: Math.round(Math.min(Math.max(step, card.run.first), card.run.last)) }),
    },
  };
  return card;
}

const withOrWithout = (list, one) => (list.includes(one) ? list.filter((other) => other !== one) : [...list, one]);

/** Return one row of each metric, at the step that is open: null where there is none, undefined until all have come. */
function atStep(data, run, { step, optimizer }, matrix) {
  const curves = step === null || columnAt(matrix, step) < 0 ? null : data.curves(run, optimizer).value;
  const row = curves ? rowAt(curves, step) : -1;
  if (row < 0) return null;
  const asked = { optimizer, from: curves.first[row], to: curves.last[row], columns: 1 };
  const found = METRICS.map(({ name: metric }) => [metric, data.matrix(run, { metric, ...asked }).value]);
  return found.every(([, values]) => values) ? Object.fromEntries(found) : undefined;
}

/** Return why a run cannot be shown, or what of it is missing; null where all is well. */
function trouble(run, { ends }, { optimizer }, error, isShown) {
  if (error && isShown) return element("p.problem", {}, `Not all could be loaded. ${short(error.message, 600)}`);
  if (error) return broken(short(error.message, 600));
  if (lacks(run, optimizer)) return element("p.problem", {}, `This run has no optimizer ${optimizer}.`);
  if (run.note) return run.rows ? element("p.note", {}, short(run.note, 600)) : broken(short(run.note, 600));
  if (run.rows) return null;
  const begun = "This run has only begun: it is shown after its first log step.";
  return element("p.note", {}, ends.length ? "This run ended before its first log step." : begun);
}

function summaryOf(run, told) {
  if (!run.rows) return "";
  return [steps(run.first, run.last), countsText(run.findings, run.incidents), ending(told)]
    .filter(Boolean)
    .join(" · ");
}

/** Return how a run ended, in words; nothing of one that is running, or was killed. */
function ending({ starts, ends }) {
  const end = ends.at(-1);
  if (!end || (starts.at(-1)?.time ?? 0) > end.time) return null;
  return end.status === "nonfinite" ? "died of a non-finite value" : short(end.status, 40);
}
