// The picker of runs: all of them by name, searched as one types, those that are ticked side by side.

import { element, replace, short } from "./dom.js";
import { countsText } from "./events.js";
import { steps } from "./formats.js";

/** Return the sidebar: `{element, draw}`. */
export function createRuns(store) {
  const search = element("input.field", {
    type: "search",
    placeholder: "Filter runs",
    "aria-label": "Filter runs",
    on: { input: () => store.refresh() },
  });
  const list = element("ul.runs");
  const note = element("p.note", { hidden: true });
  const sidebar = element("nav.sidebar", { "aria-label": "Runs" }, element("h2", {}, "Runs"), search, list, note);
  let shown = null;
  let isPlaced = false;

  function draw(view, runs) {
    const wanted = search.value.trim().toLowerCase();
    const key = [runs, view.runs, wanted];
    if (shown && key.every((part, at) => part === shown[at])) return;
    shown = key;
    const found = runs.filter((run) => run.name.toLowerCase().includes(wanted));
    replace(
      list,
      found.map((run) => entry(run, view, store)),
    );
    if (!isPlaced && found.length && view.runs?.length) {
      isPlaced = true; // what is shown at first may be far down
      list.querySelector("input:checked")?.closest("li").scrollIntoView({ block: "nearest" });
    }
    note.hidden = found.length > 0 || !runs.length;
    note.textContent = `No run is called “${short(wanted, 40)}”.`;
  }

  return { element: sidebar, draw };
}

function entry(run, view, store) {
  const broken = run.note !== null && !run.rows;
  const tick = element("input", {
    type: "checkbox",
    value: run.name,
    "data-key": run.name,
    on: { change: () => toggle(run.name, store) },
  });
  tick.checked = view.runs?.includes(run.name) ?? false;
  const state = broken
    ? "broken"
    : run.incidents
      ? "incident"
      : run.findings.error
        ? "error"
        : run.findings.warning
          ? "warning"
          : "good";
  const told = broken ? short(run.note, 160) : summary(run);
  return element(
    "li",
    { title: short(run.name, 300) },
    element(
      "label",
      {},
      tick,
      element("span.what", {}, element("b", {}, short(run.name, 70)), element("small", {}, told)),
      element(`span.state.${state}`, { "aria-hidden": "true" }),
    ),
  );
}

function summary(run) {
  const when = run.rows ? steps(run.first, run.last) : "no step logged";
  return `${when} · ${countsText(run.findings, run.incidents)}`;
}

function toggle(name, store) {
  const chosen = store.view.runs ?? [];
  store.change({ runs: chosen.includes(name) ? chosen.filter((other) => other !== name) : [...chosen, name] });
}
