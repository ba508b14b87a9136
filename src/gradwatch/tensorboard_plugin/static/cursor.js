// The cursor of a heatmap: a cell that arrow keys move, outlined for those who see and read out for those who listen.

import { element } from "./dom.js";
import { moved } from "./gestures.js";
import { moveCursor } from "./keys.js";
import { columnAt, edges } from "./picture.js";
import { cellSentence } from "./readout.js";

const LEAST = 3; // pixels

const hasCells = (picture) => Boolean(picture?.visible.rows.length && picture.matrix.last.length);

/**
 * Return the cursor of a canvas: `{outline, live, follow, draw, tell}`.
 *
 * @param {HTMLCanvasElement} canvas takes the focus.
 * @param {object} card what the lanes of a run share.
 * @param {{shown: () => object|null, cell: (place: object) => object, open: (place: object) => void}} heatmap
 */
export function createCursor(canvas, card, { shown, cell, open }) {
  const outline = element("div.cursor", { hidden: true });
  const live = element("p.live", { "aria-live": "polite" });
  let cursor = null; // {row, column}

  canvas.addEventListener("keydown", (event) => {
    const picture = shown();
    if (!hasCells(picture)) return;
    const begin = { row: 0, column: Math.max(columnAt(picture.matrix, picture.axis.first), 0) };
    const next = moveCursor(event, cursor ?? begin, cursor === null, picture, card);
    if (!next) return;
    event.preventDefault();
    if (next.open) open(next.open);
    if (next.cursor) settle(next.cursor, picture);
  });
  for (const change of ["focus", "blur"]) canvas.addEventListener(change, draw);

  function settle(place, picture) {
    cursor = place;
    draw();
    tell();
    keepInView(picture);
  }

  /** Say what the cursor is on; the same words again would be read out again. */
  function tell() {
    const picture = shown();
    const said = cursor && hasCells(picture) ? cellSentence(cell(cursor), picture.view) : "";
    if (live.textContent !== said) live.textContent = said;
  }

  /** Move the range of steps so that the cursor is in it. */
  function keepInView({ axis, matrix }) {
    const [from, to] = [matrix.first[cursor.column], matrix.last[cursor.column]];
    if (from < axis.first) card.zoom(moved(axis, from - axis.first));
    else if (to > axis.last) card.zoom(moved(axis, to - axis.last));
  }

  /** Put the outline where the cursor is. */
  function draw() {
    const picture = shown();
    outline.hidden = !cursor || !hasCells(picture) || document.activeElement !== canvas;
    if (!cursor || !hasCells(picture)) return;
    const { axis, matrix, height, visible } = picture;
    cursor.row = Math.min(cursor.row, visible.rows.length - 1);
    cursor.column = Math.min(cursor.column, matrix.last.length - 1);
    const [left, right] = edges(matrix)
      .slice(cursor.column, cursor.column + 2)
      .map(axis.pixel);
    const [wide, tall] = [Math.max(right - left, LEAST), height / visible.rows.length];
    const box = { left: (left + right - wide) / 2, top: cursor.row * tall, width: wide, height: Math.max(tall, LEAST) };
    for (const [key, value] of Object.entries(box)) outline.style.setProperty(key, `${value}px`);
  }

  return {
    outline,
    live,
    draw,
    tell,
    /** Stay at the same step when another matrix takes the place of `before`. */
    follow(before, matrix) {
      if (cursor && before !== matrix) cursor.column = Math.max(columnAt(matrix, before.last[cursor.column]), 0);
    },
  };
}
