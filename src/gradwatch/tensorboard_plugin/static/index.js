// The Numerical Health tab of TensorBoard. TensorBoard imports this module in a frame of its own and calls `render`.

import { readAddress, writeAddress } from "./address.js";
import { createCard } from "./card.js";
import { createData } from "./data.js";
import { element, replace } from "./dom.js";
import { settled } from "./gestures.js";
import { addressHash, followDarkMode, isDark, onAddress, onReload, setAddressHash } from "./host.js";
import { createLegend } from "./legend.js";
import { failed, noData, nothingChosen } from "./notices.js";
import { fetchRuns } from "./requests.js";
import { createRuns } from "./runs.js";
import { createShared } from "./shared.js";
import { START, createStore } from "./store.js";
import { createToolbar } from "./toolbar.js";

const MOST_CARDS = 8; // side by side
const POLL = 10000; // ms between looks at what has been written, while the tab is visible

/** Build the page; resolves when the first answer is there. */
export async function render() {
  await stylesheet();
  const store = createStore(readAddress(addressHash()));
  const data = createData(() => store.refresh());
  const shared = createShared(data);
  const cards = new Map();
  const page = { runs: null, problem: null, loading: false, looked: 0 };
  const point = (step) => {
    for (const card of cards.values()) card.point(step);
  };
  const app = { store, data, point, bounds: () => shared.bounds(chosenRuns()) };

  const sidebar = createRuns(store);
  const toolbar = createToolbar(store, {
    fold: (depth) =>
      store.change({ folded: depth === null ? [] : shared.foldedPaths(chosenRuns(), store.view, depth) }),
    zoom: (change) => store.change({ zoom: settled(change(rangeAxis()), app.bounds()) }),
  });
  const legend = createLegend();
  const area = element("section.cards");
  const notice = element("div");
  const main = element("main", {}, toolbar.element, legend.element, notice, area);
  document.body.append(sidebar.element, main);

  const ticked = () => (page.runs ?? []).filter((run) => store.view.runs?.includes(run.name));
  const chosenRuns = () => ticked().slice(0, MOST_CARDS);
  const rangeAxis = () => {
    const [first, last] = shared.range(chosenRuns(), store.view);
    return { first, last };
  };

  function draw(view) {
    setAddressHash(writeAddress(addressHash(), view));
    sidebar.draw(view, page.runs ?? []);
    const runs = chosenRuns();
    const seen = shared.prepare(runs, view, isDark());
    const empty = !page.runs?.length;
    sidebar.element.hidden = toolbar.element.hidden = empty;
    legend.element.hidden = !seen.pictures.size;
    replace(notice, message(page, ticked().length));
    toolbar.draw(view, { ...seen, shown: runs.length ? seen.range : null, whole: view.zoom === null });
    legend.draw(view, seen.scale, seen.dark);
    keepCards(runs);
    for (const run of runs) cards.get(run.name).draw(view, seen, run);
    main.setAttribute("aria-busy", String(page.loading || data.waits()));
  }

  /** Have one card a chosen run, in the order of the runs; a card that stays keeps its state. */
  function keepCards(runs) {
    for (const [name] of cards) if (!runs.some((run) => run.name === name)) cards.delete(name);
    for (const run of runs) if (!cards.has(run.name)) cards.set(run.name, createCard(app, run));
    const wanted = runs.map((run) => cards.get(run.name).element);
    if (wanted.length !== area.children.length || wanted.some((card, at) => card !== area.children[at]))
      area.replaceChildren(...wanted);
    area.classList.toggle("several", wanted.length > 1);
  }

  async function load() {
    page.looked = performance.now();
    page.loading = true;
    main.setAttribute("aria-busy", "true");
    try {
      const runs = await fetchRuns();
      if (runs) page.runs = runs;
      if (runs && store.view.runs === null && runs.length) store.change({ runs: [firstChoice(runs).name] });
      page.problem = null;
    } catch (error) {
      page.problem = error.message;
    }
    page.loading = false;
    store.refresh();
  }

  store.follow(draw);
  followDarkMode(() => store.refresh());
  onAddress(() => store.change({ ...START, runs: store.view.runs, ...readAddress(addressHash()) }));
  onReload(load);
  new ResizeObserver(() => store.refresh()).observe(main);
  const visible = () => !document.hidden && window.innerHeight > 0; // no height: another tab of TensorBoard is open
  const look = () => {
    if (visible() && performance.now() - page.looked >= POLL) load();
  };
  document.addEventListener("visibilitychange", look);
  window.addEventListener("resize", look);
  setInterval(look, POLL / 4);
  await load();
}

/** Return the run to begin with: the last one that has something to show, for runs are mostly named in order. */
function firstChoice(runs) {
  return runs.findLast((run) => run.rows > 0) ?? runs[0];
}

/** Return what is to be said above the runs; `chosen` is how many are ticked. */
function message({ runs, problem }, chosen) {
  if (problem) return failed(problem);
  if (runs === null) return element("p.note", {}, "Loading …");
  if (!runs.length) return noData();
  if (chosen > MOST_CARDS)
    return element("p.note", {}, `${MOST_CARDS} of the ${chosen} runs that are ticked are shown.`);
  return chosen ? null : nothingChosen();
}

/** Wait for the style sheet: what is measured before it has come is wrong. */
function stylesheet() {
  const link = element("link", { rel: "stylesheet", href: new URL("./page.css", import.meta.url).href });
  document.documentElement.lang = "en";
  document.body.classList.add("numerical-health");
  return new Promise((resolve) => {
    link.onload = link.onerror = resolve;
    document.head.append(link);
  });
}
