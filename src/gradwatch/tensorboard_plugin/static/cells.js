// Matrices of layers and steps: how cells are put together, and what a layer's usual value is.
//
// A cell is the largest of what it stands for, and NaN is larger than infinity: a spike or a NaN of one layer at one
// step stays visible however much is put together. What is not known (no gradient) is less than all.

export const NOT_KNOWN = -3.4028234663852886e38; // the lowest float32, as serialization/tensorboard_rows.py has it
const PART = 0.1; // of the columns are the past that a running median looks at,
const [LEAST, MOST] = [9, 51]; // but at least and at most so many

/** Return the larger of two values: NaN, then infinity, then finite, then not known. */
export function larger(a, b) {
  return a !== a || a > b ? a : b;
}

/** Return the value that says more: what is not finite, then what is farther from 1, either way. */
export function farther(a, b) {
  if (a !== a || a === Infinity || b === NOT_KNOWN) return a;
  if (b !== b || b === Infinity || a === NOT_KNOWN) return b;
  return Math.abs(Math.log(a)) >= Math.abs(Math.log(b)) ? a : b; // log(0) is the farthest of all
}

/**
 * Return values divided by the running median of their layer.
 *
 * The median is over the last positive, finite values, this one included: of a tenth of the columns, but of 9 to 51. A
 * spike is compared with what came before it, and a level that has changed for good becomes the usual one again.
 *
 * @param {Float32Array} values [columns, layers], as the back end sends them.
 * @returns {Float32Array} the same shape; what is not positive and finite stays as it is.
 */
export function relativeToMedian(values, layers) {
  const ratios = new Float32Array(values.length);
  const columns = layers ? values.length / layers : 0;
  const window = Math.min(Math.max(Math.round(PART * columns), LEAST), MOST);
  const kept = new Float32Array(window); // in the order of their steps, a ring
  const sorted = new Float32Array(window);
  for (let layer = 0; layer < layers; layer += 1) {
    let seen = 0;
    for (let column = 0; column < columns; column += 1) {
      const index = column * layers + layer;
      const value = values[index];
      ratios[index] = value;
      if (!(value > 0 && value < Infinity)) continue;
      const size = Math.min(seen, window);
      if (size === window) remove(sorted, size, kept[seen % window]);
      insert(sorted, Math.min(size, window - 1), value);
      kept[seen % window] = value;
      seen += 1;
      ratios[index] = value / middle(sorted, Math.min(seen, window));
    }
  }
  return ratios;
}

const middle = (sorted, size) => (sorted[(size - 1) >> 1] + sorted[size >> 1]) / 2;

function place(sorted, size, value) {
  let [low, high] = [0, size];
  while (low < high) {
    const half = (low + high) >> 1;
    if (sorted[half] < value) low = half + 1;
    else high = half;
  }
  return low;
}

function insert(sorted, size, value) {
  const at = place(sorted, size, value);
  sorted.copyWithin(at + 1, at, size);
  sorted[at] = value;
}

function remove(sorted, size, value) {
  const at = place(sorted, size, value);
  sorted.copyWithin(at, at + 1, size);
}

/**
 * Return [rows, columns]: of the layers of each row the value that stands for them.
 *
 * @param {Float32Array} values [columns, layers].
 * @param {number[][]} members the layers of each row, by index.
 * @param {(a: number, b: number) => number} joined `larger` or `farther`.
 */
export function byRows(values, layers, members, joined) {
  const columns = layers ? values.length / layers : 0;
  const cells = new Float32Array(members.length * columns);
  members.forEach((indices, row) => {
    for (let column = 0; column < columns; column += 1) {
      let cell = NOT_KNOWN;
      for (const layer of indices) cell = joined(cell, values[column * layers + layer]);
      cells[row * columns + column] = cell;
    }
  });
  return cells;
}

/** Return the layer of a row that its cell took its value from, by index. */
export function spokesman(values, layers, column, indices, joined) {
  let best = indices[0];
  for (const layer of indices) {
    const [held, next] = [values[column * layers + best], values[column * layers + layer]];
    if (!Object.is(joined(held, next), held)) best = layer;
  }
  return best;
}
