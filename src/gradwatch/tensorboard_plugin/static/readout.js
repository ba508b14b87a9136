// What a cell is, in words: for the pointer, for the keyboard, and for those who listen.

import { NOT_KNOWN, spokesman } from "./cells.js";
import { short } from "./dom.js";
import { count, number, steps, times } from "./formats.js";
import { ratioAt, ratiosOf } from "./picture.js";
import { METRICS } from "./store.js";

const LONGEST = 90;
const ROOTS = ["", "(root)"]; // as PyTorch calls it, and as records do

/** Return the title of a metric. */
export function metricTitle(metric) {
  return METRICS.find(({ name }) => name === metric)?.title ?? metric;
}

/** Return the name of a layer as it is shown; the LightningModule itself has none of its own. */
export function layerTitle(name, limit = LONGEST) {
  return ROOTS.includes(name) ? "the model itself" : short(name, limit);
}

/** Return a value of a metric in words. */
export function valueText(value, metric) {
  if (value === NOT_KNOWN || value === undefined)
    return metric === "grad_norm" ? "not known (no gradient)" : "not known";
  if (metric === "nonfinite" && Number.isFinite(value)) return count(value, "non-finite value");
  return number(value, 5);
}

/**
 * Return what is at a row and a column of a matrix: `{layer, when, value, usual, of}`, all of them text.
 *
 * Of a row of several layers it is the one from which the cell has its colour.
 */
export function cellAt(matrix, row, column, { metric, mode }, joined) {
  const layers = matrix.layers.length;
  const shown = mode === "relative" ? ratiosOf(matrix) : matrix.values;
  const layer = spokesman(shown, layers, column, row.members, joined);
  const value = matrix.values[column * layers + layer];
  const ratio = ratioAt(matrix, layer, column);
  const usual = metric !== "nonfinite" && value > 0 && value < Infinity ? `${times(ratio)} its running median` : null;
  return {
    name: matrix.layers[layer],
    layer: layerTitle(matrix.layers[layer]),
    when: steps(matrix.first[column], matrix.last[column]),
    value: valueText(value, metric),
    usual,
    of: row.members.length > 1 ? `of ${count(row.members.length, "layer")} in ${layerTitle(row.name)}` : null,
  };
}

/** Return a cell as one sentence. */
export function cellSentence({ layer, when, value, usual, of }, { metric }) {
  return [`${layer}${of ? ` (${of})` : ""}`, when, `${metricTitle(metric).toLowerCase()} ${value}`, usual]
    .filter(Boolean)
    .join(", ");
}
