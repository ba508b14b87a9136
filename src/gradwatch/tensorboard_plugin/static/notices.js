// What to say where there is nothing to draw: what is the matter, and what to do.

import { element, short } from "./dom.js";

const CODE = "Trainer(callbacks=[NumericalHealthMonitor()])";

/** Return the notice for a log directory without data of ours. */
function noData() {
  return notice(
    "No numerical health data yet",
    "Runs show up here as soon as gradwatch watches them: give its callback to a Trainer with a TensorBoard logger.",
    element("pre", {}, `from gradwatch import NumericalHealthMonitor\n\ntrainer = ${CODE}`),
    "Data appears after the first log step. Runs without the callback have none; their other tabs are untouched.",
  );
}

/** Return the notice for a picker in which nothing is ticked. */
function nothingChosen() {
  return notice(
    "No run is selected",
    "Tick one or more runs on the left; several are shown side by side, on one axis and with one scale.",
  );
}

/** Return the notice for runs of an address that are not in the log directory, or no longer. */
function vanished(names) {
  return notice(
    "The selected runs are not there",
    `There is no run called ${short(names.join(", "), 600)}.`,
    "It may have been renamed or deleted, or TensorBoard has not read it yet. Or tick another one on the left.",
  );
}

/** Return the notice for a run that cannot be shown. */
export function broken(text) {
  return notice(
    "This run cannot be shown",
    text,
    "Other runs and other tabs are untouched. If the run is still being written, press Reload in a moment.",
  );
}

/** Return the notice for a back end that does not answer. */
function failed(text) {
  return notice("The data could not be loaded", text);
}

/**
 * Return what is to be said above the runs, if anything.
 *
 * @param {{runs: object[]|null, problem: string|null}} watched
 * @param {string[]} chosen names, of which `ticked` are there, and at most `most` shown.
 */
export function messageAbove({ runs, problem }, chosen, ticked, most) {
  if (problem) return failed(problem);
  if (runs === null) return element("p.note", {}, "Loading …");
  if (!runs.length) return noData();
  if (ticked > most) return element("p.note", {}, `${most} of the ${ticked} runs that are ticked are shown.`);
  if (ticked) return null;
  return chosen.length ? vanished(chosen) : nothingChosen();
}

function notice(title, ...paragraphs) {
  return element(
    "div.notice",
    {},
    element("h3", {}, title),
    paragraphs.map((part) => (part instanceof Node ? part : element("p", {}, part))),
  );
}
