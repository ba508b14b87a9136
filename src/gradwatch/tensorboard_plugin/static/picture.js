// From a matrix to the pixels of a heatmap.

import { NOT_KNOWN, byRows, farther, larger, relativeToMedian } from "./cells.js";
import { NONFINITE, UNKNOWN, pixels } from "./colours.js";
import { level } from "./scales.js";

const LEAST_WIDTH = 3; // pixels of what is not finite: one step of a million is seen

/** Return the ratios of a matrix to the running medians of its layers; computed once. */
export function ratiosOf(matrix) {
  matrix.ratios ??= relativeToMedian(matrix.values, matrix.layers.length);
  return matrix.ratios;
}

/** Return the ratio of one cell; of its layer alone, where nobody has asked for all of them. */
export function ratioAt(matrix, layer, column) {
  const layers = matrix.layers.length;
  if (matrix.ratios) return matrix.ratios[column * layers + layer];
  matrix.ofLayer ??= new Map();
  if (!matrix.ofLayer.has(layer)) {
    const values = Float32Array.from(matrix.last, (_, at) => matrix.values[at * layers + layer]);
    matrix.ofLayer.set(layer, relativeToMedian(values, 1));
  }
  return matrix.ofLayer.get(layer)[column];
}

/** Return the cells of the visible rows: `{cells, columns, joined}`, cells being [rows, columns]. */
export function cellsOf(matrix, rows, mode) {
  const layers = matrix.layers.length;
  const values = mode === "relative" ? ratiosOf(matrix) : matrix.values;
  const joined = mode === "relative" ? farther : larger;
  return {
    cells: byRows(
      values,
      layers,
      rows.map((row) => row.members),
      joined,
    ),
    columns: matrix.last.length,
    joined,
  };
}

/** Return the right edges of columns, in steps: a column begins where the one before it ends. */
export function edges({ first, last }) {
  return [first.length ? first[0] - 0.5 : 0, ...last.map((step) => step + 0.5)];
}

/** Return the column that holds `step`, or -1. */
export function columnAt({ first, last }, step) {
  if (!last.length || step < first[0] - 0.5 || step > last[last.length - 1] + 0.5) return -1;
  let [low, high] = [0, last.length - 1];
  while (low < high) {
    const half = (low + high) >> 1;
    if (last[half] + 0.5 < step) low = half + 1;
    else high = half;
  }
  return low;
}

/** Return the columns that reach into each pixel of the axis: [first, behind the last], equal where there are none. */
export function columnsOfPixels(matrix, axis, width) {
  const ends = edges(matrix);
  const found = [];
  let column = 0;
  for (let pixel = 0; pixel < width; pixel += 1) {
    const [from, to] = [axis.step((pixel * axis.width) / width), axis.step(((pixel + 1) * axis.width) / width)];
    while (column < matrix.last.length && ends[column + 1] <= from + 1e-9) column += 1;
    let behind = column;
    while (behind < matrix.last.length && ends[behind] < to - 1e-9) behind += 1;
    found.push([column, behind]);
  }
  return found;
}

/** Return [height, width]: the value of each pixel, rows put together where there are more of them than pixels. */
export function pooledPixels({ cells, columns, joined }, spans, height) {
  const rows = columns ? cells.length / columns : 0;
  const values = new Float32Array(height * spans.length).fill(NOT_KNOWN);
  for (let row = 0; row < rows; row += 1) {
    const line = Math.floor((row * height) / rows) * spans.length;
    for (let pixel = 0; pixel < spans.length; pixel += 1) {
      const [from, behind] = spans[pixel];
      let value = values[line + pixel];
      for (let column = from; column < behind; column += 1) value = joined(value, cells[row * columns + column]);
      values[line + pixel] = value;
    }
  }
  return values;
}

/** Return the picture: what is not finite is drawn last, and at least LEAST_WIDTH pixels wide. */
export function paint(values, width, scale, dark) {
  const image = new ImageData(width, values.length / width);
  const target = new Uint32Array(image.data.buffer);
  const palette = pixels(scale.kind, dark);
  const bad = [];
  values.forEach((value, index) => {
    const found = level(value, scale);
    if (found === NONFINITE) bad.push(index);
    else if (found !== UNKNOWN) target[index] = palette[found];
  });
  for (const index of bad) target[index] = palette[NONFINITE];
  widen(target, bad, width, palette[NONFINITE]);
  return image;
}

/** Widen what is narrower than LEAST_WIDTH; `places` are in order. */
function widen(target, places, width, colour) {
  for (let start = 0, end; start < places.length; start = end) {
    end = start + 1;
    while (end < places.length && places[end] === places[end - 1] + 1 && places[end] % width) end += 1;
    const row = places[start] - (places[start] % width);
    const missing = LEAST_WIDTH - (end - start);
    if (missing <= 0) continue;
    const from = Math.max(places[start] - Math.floor(missing / 2), row);
    target.fill(colour, from, Math.min(from + LEAST_WIDTH, row + width));
  }
}
