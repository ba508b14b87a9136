// The Numerical Health tab of TensorBoard. TensorBoard imports this module in a frame of its own and calls `render`.

import { readAddress, writeAddress } from "./address.js";
import { createCards } from "./cards.js";
import { createData } from "./data.js";
import { element, replace } from "./dom.js";
import { settled } from "./gestures.js";
import { addressHash, followDarkMode, isDark, onAddress, setAddressHash } from "./host.js";
import { createLegend } from "./legend.js";
import { messageAbove } from "./notices.js";
import { optimizersOf } from "./requests.js";
import { createRuns } from "./runs.js";
import { createShared } from "./shared.js";
import { START, createStore } from "./store.js";
import { createToolbar } from "./toolbar.js";
import { watchRuns } from "./watch.js";

const MOST_CARDS = 8; // side by side

/** Build the page; resolves when the first answer is there. */
export async function render() {
  await stylesheet();
  const store = createStore(readAddress(addressHash()));
  const data = createData(() => store.refresh());
  const shared = createShared(data);
  const ticked = () => (watched.runs ?? []).filter((run) => store.view.runs?.includes(run.name));
  const chosen = () => ticked().slice(0, MOST_CARDS);
  const bounds = () => shared.bounds(chosen());

  const sidebar = createRuns(store);
  const toolbar = createToolbar(store, {
    fold: (depth) => store.change({ folded: shared.foldedPaths(chosen(), store.view, depth) }),
    zoom(change) {
      const [first, last] = shared.range(chosen(), store.view);
      store.change({ zoom: settled(change({ first, last }), bounds()) });
    },
  });
  const legend = createLegend();
  const cards = createCards({ store, data, bounds, point: (step) => cards.point(step) });
  const notice = element("div");
  const main = element("main", {}, toolbar.element, legend.element, notice, cards.element);
  document.body.append(sidebar.element, main);

  function draw(view) {
    const { runs } = watched;
    const optimizers = optimizersOf(chosen());
    if (optimizers.length && !optimizers.includes(view.optimizer)) {
      store.change({ optimizer: optimizers[0] }); // those that have it are no longer shown
      return;
    }
    setAddressHash(writeAddress(addressHash(), view));
    const seen = shared.prepare(chosen(), view, isDark());
    sidebar.element.hidden = toolbar.element.hidden = !runs?.length;
    legend.element.hidden = !seen.pictures.size;
    sidebar.draw(view, runs ?? []);
    toolbar.draw(view, seen);
    if (!seen.isLate) legend.draw(view, seen.scale, seen.dark);
    replace(notice, messageAbove(watched, view.runs ?? [], ticked().length, MOST_CARDS));
    cards.draw(chosen(), seen);
    main.setAttribute("aria-busy", String(watched.isLoading || data.waits()));
  }

  const watched = watchRuns((runs) => {
    if (watched.isLoading) {
      main.setAttribute("aria-busy", "true");
      data.retry();
    }
    if (store.view.runs === null && runs?.length) store.change({ runs: [firstChoice(runs).name] });
    store.refresh();
  });
  store.follow(draw);
  followDarkMode(() => store.refresh());
  onAddress(() => store.change({ ...START, runs: store.view.runs, ...readAddress(addressHash()) }));
  new ResizeObserver(() => store.refresh()).observe(main);
  await watched.look();
}

/** Return the run to begin with: the last one that has something to show, for runs are mostly named in order. */
function firstChoice(runs) {
  return runs.findLast((run) => run.rows > 0) ?? runs[0];
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
