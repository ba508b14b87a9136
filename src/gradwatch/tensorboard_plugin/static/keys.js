// Keys of a heatmap: arrows move a cursor over its cells, Enter opens one, plus, minus and 0 zoom.

import { moved, zoomed } from "./gestures.js";
import { columnAt } from "./picture.js";

const MOVES = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  PageUp: [-10, 0],
  PageDown: [10, 0],
};

const ENDS = { Home: "first", End: "last" }; // of the steps in view

const bounded = (value, most) => Math.min(Math.max(value, 0), most);

/**
 * Return what a key asks for: `{cursor}`, `{open}`, `{}` where it is done already, null where it is not ours.
 *
 * @param {{row: number, column: number}} cursor where it is, or begins.
 * @param {boolean} begins whether there was none: the first arrow shows it where it is.
 */
export function moveCursor(event, cursor, begins, { axis, matrix, visible }, card) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const move = MOVES[event.key];
  if (move && event.shiftKey && event.key.startsWith("Arrow") && move[1]) {
    card.zoom(moved(axis, move[1] * Math.max((axis.last - axis.first + 1) / 4, 1)));
    return {};
  }
  if ((move || event.key in ENDS) && begins) return { cursor };
  if (event.key in ENDS) {
    const step = bounded(axis[ENDS[event.key]], matrix.last.at(-1));
    return { cursor: { row: cursor.row, column: Math.max(columnAt(matrix, step), 0) } };
  }
  if (move) {
    const row = bounded(cursor.row + move[0], visible.rows.length - 1);
    return { cursor: { row, column: bounded(cursor.column + move[1], matrix.last.length - 1) } };
  }
  const centre = begins ? undefined : matrix.last[cursor.column]; // undefined: the middle of what is in view
  return otherKey(event.key, cursor, axis, centre, card);
}

function otherKey(key, cursor, axis, centre, card) {
  if (key === "Enter" || key === " ") return { open: cursor };
  if (key === "+" || key === "=") card.zoom(zoomed(axis, 0.5, centre));
  else if (key === "-") card.zoom(zoomed(axis, 2, centre));
  else if (key === "0") card.store.change({ zoom: null });
  else if (key === "Escape") card.store.change({ layer: null, step: null });
  else return null;
  return {};
}
