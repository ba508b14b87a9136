// What the reader looks at: one object, changed in one place, followed by every part of the page.

export const METRICS = [
  { name: "grad_norm", title: "Gradient norm" },
  { name: "weight_norm", title: "Weight norm" },
  { name: "update_ratio", title: "Update ratio" },
  { name: "nonfinite", title: "Non-finite" },
];

/**
 * @typedef {object} View
 * @property {string[]|null} runs shown side by side; null: none chosen yet.
 * @property {string} metric one of METRICS.
 * @property {"absolute"|"relative"} mode
 * @property {number} optimizer
 * @property {[number, number]|null} zoom first and last step; null: the whole run.
 * @property {string|null} layer whose curves are shown.
 * @property {number|null} step whose layers are shown.
 * @property {string[]} folded paths of folded modules.
 * @property {string} filter of layers.
 * @property {string|null} event which finding or incident is open.
 */
export const START = {
  runs: null,
  metric: "grad_norm",
  mode: "absolute",
  optimizer: 0,
  zoom: null,
  layer: null,
  step: null,
  folded: [],
  filter: "",
  event: null,
};

/** Return a store: `view` is frozen, `change` replaces parts of it and tells all that follow, once a frame. */
export function createStore(view = START) {
  const followers = new Set();
  let asked = false;
  const tell = () => {
    asked = false;
    for (const follow of followers) follow(store.view);
  };
  const store = {
    view: Object.freeze({ ...START, ...view }),
    change(parts) {
      store.view = Object.freeze({ ...store.view, ...parts });
      store.refresh();
    },
    /** Tell all that follow although the view is the same: data has come. */
    refresh() {
      if (asked) return;
      asked = true;
      requestAnimationFrame(tell);
    },
    follow(follower) {
      followers.add(follower);
    },
  };
  return store;
}
