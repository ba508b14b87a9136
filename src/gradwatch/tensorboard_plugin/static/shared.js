// What the runs side by side share: the range of steps, the scale of the colours, which layers are shown.

import { insideRange } from "./axis.js";
import { absoluteScale, countScale, relativeScale } from "./scales.js";
import { happeningsOf } from "./happenings.js";
import { ratiosOf } from "./picture.js";
import { lacks, layersOf, optimizersOf } from "./requests.js";
import { foldedAt, layerFilter, layerTree, levels, visibleRows } from "./tree.js";

const NONE = [];
const NO_MATCH = "No layer matches this filter.";
const COLUMNS = 1000; // of a whole run
const TILE_COLUMNS = 2400; // of a part of it, see `tile`

/** Return what prepares a drawing; it remembers what is dear to compute. */
export function createShared(data) {
  let scale = { of: [], mode: null, found: null };
  const happened = new WeakMap();
  let layout = { key: null, found: new WeakMap() };

  /** Return what has happened in a run: the same list for the same answer. */
  function happenings(run) {
    const told = data.events(run).value;
    if (!told) return NONE;
    if (!happened.has(told)) happened.set(told, happeningsOf(told, run.last));
    return happened.get(told);
  }

  /** Return the first and the last step of the runs: a run may have died after its last row. */
  function bounds(runs) {
    const ends = runs.flatMap((run) => [
      ...(run.rows ? [run.first, run.last] : []),
      ...happenings(run).flatMap(({ from, to }) => [from, to]),
    ]);
    return ends.length ? [ends.reduce((a, b) => Math.min(a, b)), ends.reduce((a, b) => Math.max(a, b))] : [0, 1];
  }

  /** Return the steps in view: an address may be of a longer run than any that is here. */
  const range = (runs, { zoom }) => (zoom ? insideRange(zoom, bounds(runs)) : bounds(runs));

  /** Return the matrix to draw of each run, or why there is none: the whole run until its part has come. */
  function pictures(runs, view) {
    const found = new Map();
    const steps = view.zoom && tile(range(runs, view));
    for (const run of runs.filter((each) => each.rows > 0 && !lacks(each, view.optimizer))) {
      const { metric, optimizer } = view;
      const whole = data.matrix(run, { metric, optimizer, columns: COLUMNS });
      const part = steps && data.matrix(run, { metric, optimizer, ...steps, columns: TILE_COLUMNS });
      found.set(run.name, {
        whole: whole.value,
        matrix: part?.value?.last.length ? part.value : whole.value,
        error: whole.error,
      });
    }
    return found;
  }

  /** Return the scale of whole runs: colours mean the same at every zoom, and in all runs side by side. */
  function scaleOf(matrices, metric, mode) {
    const kind = metric === "nonfinite" ? "counts" : mode;
    if (scale.kind === kind && scale.of.length === matrices.length && matrices.every((one, at) => one === scale.of[at]))
      return scale.found;
    const make = { counts: countScale, absolute: absoluteScale, relative: relativeScale }[kind];
    scale = {
      of: matrices,
      kind,
      found: make(matrices.map((one) => (kind === "relative" ? ratiosOf(one) : one.values))),
    };
    return scale.found;
  }

  /** Return a function from a matrix to its visible rows, the same object for the same layers, folds and filter. */
  function visibleOf(view, { wanted }) {
    const key = JSON.stringify([view.folded, view.filter]);
    if (layout.key !== key) layout = { key, found: new Map() };
    const folded = new Set(view.folded);
    return ({ layers }) => {
      const names = JSON.stringify(layers);
      if (!layout.found.has(names))
        layout.found.set(names, { names: layers, ...visibleRows(layerTree(layers), layers, folded, wanted) });
      return layout.found.get(names);
    };
  }

  /** Return all that a drawing of these runs needs to know. */
  function prepare(runs, view, dark) {
    const filter = layerFilter(view.filter);
    const found = pictures(runs, view);
    const drawn = view.metric === "nonfinite" ? { ...view, mode: "absolute" } : view; // counts have no usual value
    const { metric, mode } = drawn;
    const visible = visibleOf(view, filter);
    return {
      view: drawn,
      dark,
      pictures: found,
      isLate: [...found.values()].some(({ matrix, error }) => !matrix && !error),
      happenings,
      range: range(runs, view),
      scale: scaleOf([...found.values()].map(({ whole }) => whole).filter(Boolean), metric, mode),
      visible,
      filterProblem: [filter.problem, isEmpty(found, visible) && NO_MATCH].filter(Boolean).join(" "),
      depths: Math.max(0, ...trees(runs, view).map(levels)),
      optimizers: optimizersOf(runs),
    };
  }

  const trees = (runs, { optimizer }) => runs.map((run) => layerTree(layersOf(run, optimizer)));

  /** Return the paths of the modules to fold at a depth, in all runs; null: none of them. */
  function foldedPaths(runs, view, depth) {
    if (depth === null) return [];
    return [...new Set(trees(runs, view).flatMap((tree) => foldedAt(tree, depth)))];
  }

  return { bounds, range, prepare, foldedPaths, happenings };
}

/** Return whether there are pictures, and no layer of any is visible. */
function isEmpty(pictures, visible) {
  const matrices = [...pictures.values()].map(({ matrix }) => matrix).filter(Boolean);
  return matrices.length > 0 && matrices.every((matrix) => !visible(matrix).rows.length);
}

/**
 * Return the steps to ask for where `zoom` is shown: a power of two wide, and as much before and after it.
 *
 * What is before gives running medians their past; and a reader who moves about asks for the same part again and again.
 */
export function tile([from, to]) {
  const size = 2 ** Math.ceil(Math.log2(Math.max(to - from + 1, 8)));
  const start = Math.floor(from / size) * size;
  return { from: Math.max(start - size, 0), to: start + 2 * size };
}
