// What is shown, and of which layers and steps.

import { button, element, replace } from "./dom.js";
import { steps } from "./formats.js";
import { zoomed } from "./gestures.js";
import { METRICS } from "./store.js";

const DEEPEST = 4;
const MODES = [
  ["absolute", "Absolute"],
  ["relative", "Relative to running median"],
];

/** Return the bar above the runs: `{element, draw}`; `actions` are `fold(depth)` (null: unfold all), `zoom(change)`. */
export function createToolbar(store, actions) {
  const tabs = element(
    "div.tabs",
    { role: "tablist", "aria-label": "Metric" },
    METRICS.map(({ name, title }) =>
      button(title, () => store.change({ metric: name }), { role: "tab", "data-metric": name }),
    ),
  );
  tabs.addEventListener("keydown", (event) => arrowTabs(event, store));
  const modes = element(
    "div.segments",
    { role: "group", "aria-label": "Values" },
    MODES.map(([mode, title]) => button(title, () => store.change({ mode }), { "data-mode": mode })),
  );
  const optimizers = element("select.field", {
    "aria-label": "Optimizer",
    on: { change: (event) => store.change({ optimizer: Number(event.target.value), layer: null }) },
  });
  const depths = element("div.segments", { role: "group", "aria-label": "Depth of modules" });
  const filter = element("input.field.filter", {
    type: "search",
    placeholder: "Filter layers (regex)",
    "aria-label": "Filter layers by a regular expression",
    "aria-describedby": "filter-problem",
    on: { input: () => store.change({ filter: filter.value }) },
  });
  const problem = element("p.problem", { id: "filter-problem", role: "status" });
  const range = element("output.range");
  const zoomBy = (factor) => actions.zoom((axis) => zoomed(axis, factor));
  const reset = button("All steps", () => store.change({ zoom: null }), {
    title: "Show all steps (0, or a double click)",
  });
  const bar = element(
    "header.toolbar",
    {},
    tabs,
    element(
      "div.controls",
      {},
      modes,
      optimizers,
      filter,
      depths,
      element(
        "div.segments",
        { role: "group", "aria-label": "Zoom" },
        button("−", () => zoomBy(2), { "aria-label": "Zoom out" }),
        button("+", () => zoomBy(0.5), { "aria-label": "Zoom in" }),
        reset,
      ),
      range,
    ),
    problem,
  );

  function draw(view, seen) {
    for (const tab of tabs.children) {
      const chosen = tab.dataset.metric === view.metric;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    for (const mode of modes.children) mode.setAttribute("aria-pressed", String(mode.dataset.mode === view.mode));
    modes.hidden = view.metric === "nonfinite";
    drawOptimizers(optimizers, seen, view);
    drawDepths(depths, seen, view, actions);
    if (filter.value !== view.filter && document.activeElement !== filter) filter.value = view.filter;
    problem.textContent = seen.filterProblem ?? "";
    problem.hidden = !seen.filterProblem;
    reset.disabled = view.zoom === null;
    range.textContent = seen.pictures.size ? steps(...seen.range) : "";
  }

  return { element: bar, draw };
}

function drawOptimizers(choice, { optimizers }, { optimizer }) {
  const numbers = optimizers.join();
  if (choice.dataset.of !== numbers) {
    const options = optimizers.map((each) => element("option", { value: each }, `Optimizer ${each}`));
    replace(choice, options);
    choice.dataset.of = numbers;
  }
  choice.hidden = optimizers.length < 2;
  choice.value = String(optimizer);
}

/** One button a level of modules, and one for every layer. */
function drawDepths(box, { depths }, { folded }, { fold }) {
  const count = Math.min(depths, DEEPEST);
  box.hidden = !count;
  if (box.children.length !== count + 1) {
    const levels = Array.from({ length: count }, (_, at) =>
      button(String(at + 1), () => fold(at), {
        "aria-label": `Fold to depth ${at + 1}`,
        title: `Modules ${at + 1} level${at ? "s" : ""} deep as one row each`,
      }),
    );
    replace(
      box,
      levels,
      button("All layers", () => fold(null), { title: "Unfold everything" }),
    );
  }
  box.lastChild.setAttribute("aria-pressed", String(!folded.length));
}

/** Arrow keys walk through the tabs, as tabs do everywhere. */
function arrowTabs(event, store) {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!move) return;
  const names = METRICS.map(({ name }) => name);
  const next = (names.indexOf(store.view.metric) + move + names.length) % names.length;
  store.change({ metric: names[next] });
  event.currentTarget.children[next].focus();
}
