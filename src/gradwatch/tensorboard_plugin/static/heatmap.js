// The heatmap of a run: layers downwards, steps across.

import { element, replace } from "./dom.js";
import { followPointer, moved } from "./gestures.js";
import { drawGutter, walkNames } from "./gutter.js";
import { moveCursor } from "./keys.js";
import { cellsOf, columnAt, columnsOfPixels, paint, pooledPixels } from "./picture.js";
import { cellAt, cellSentence } from "./readout.js";
import { createRims } from "./rims.js";

const TALLEST_ROW = 18;
const ROOM = 480; // pixels of height that rows share
const KEYS = "Arrow keys move a cursor, Enter opens the cell, plus and minus zoom, 0 shows all.";
const MOST = 560; // above that several layers share a pixel

/** Return how high a heatmap of `rows` rows is. */
export function heatmapHeight(rows) {
  return rows * TALLEST_ROW <= ROOM ? rows * TALLEST_ROW : Math.min(rows * Math.max(Math.floor(ROOM / rows), 1), MOST);
}

/** Return the lane of the heatmap: `{gutter, plot, live, draw}`. `card` is what the lanes of a run share. */
export function createHeatmap(card) {
  const canvas = element("canvas", {
    tabindex: "0",
    role: "application",
    "aria-roledescription": "heatmap",
    "aria-label": `Layers by steps of run ${card.run.name}. ${KEYS}`,
  });
  const outline = element("div.cursor", { hidden: true });
  const tip = element("div.tip", { hidden: true, "aria-hidden": "true" });
  const live = element("p.live", { "aria-live": "polite" });
  const rims = createRims();
  const plot = element("div.plot.heat", {}, canvas, rims.above, rims.left, outline, tip);
  const gutter = element("div.gutter.names", { role: "group", "aria-label": "Layers", on: { keydown: walkNames } });
  let shown = null; // what is on the canvas
  let cursor = null; // {row, column}

  const rowAt = (y) =>
    Math.min(Math.max(Math.floor((y * shown.visible.rows.length) / shown.height), 0), shown.visible.rows.length - 1);
  const cell = ({ row, column }) => cellAt(shown.matrix, shown.visible.rows[row], column, shown.view, shown.joined);

  const hit = (x, y) => {
    if (!shown?.visible.rows.length) return null;
    const column = columnAt(shown.matrix, shown.axis.step(x));
    return column < 0 ? null : { row: rowAt(y), column };
  };

  const open = (place) => {
    const { name } = cell(place);
    card.store.change({ layer: name, step: shown.matrix.last[place.column] });
  };

  followPointer(plot, {
    axis: () => shown.axis,
    bounds: card.bounds,
    zoom: (zoom) => card.store.change({ zoom }),
    choose(x, y) {
      const place = hit(x, y);
      if (place) open(place);
    },
    point(x, y) {
      const place = x === null ? null : hit(x, y);
      card.point(x === null || !shown ? null : shown.axis.step(x));
      showTip(tip, place && cell(place), x, y, shown);
    },
  });

  canvas.addEventListener("keydown", (event) => {
    if (!shown?.visible.rows.length || !shown.matrix.last.length) return;
    const next = moveCursor(event, cursor ?? hit(0, 0) ?? { row: 0, column: 0 }, cursor === null, shown, card);
    if (!next) return;
    event.preventDefault();
    if (next.open) return open(next.open);
    if (!next.cursor) return;
    cursor = next.cursor;
    placeCursor();
    live.textContent = cellSentence(cell(cursor), shown.view);
    followCursor();
  });
  canvas.addEventListener("focus", () => {
    outline.hidden = cursor === null;
  });
  canvas.addEventListener("blur", () => {
    outline.hidden = true;
  });

  /** Move the range of steps so that the cursor is in it. */
  function followCursor() {
    const { axis, matrix } = shown;
    const [from, to] = [matrix.first[cursor.column], matrix.last[cursor.column]];
    if (from < axis.first) card.zoom(moved(axis, from - axis.first));
    else if (to > axis.last) card.zoom(moved(axis, to - axis.last));
  }

  function placeCursor() {
    if (!cursor || !shown) return;
    cursor.row = Math.min(cursor.row, shown.visible.rows.length - 1);
    cursor.column = Math.min(cursor.column, shown.matrix.last.length - 1);
    const { axis, matrix, height, visible } = shown;
    const from = cursor.column ? matrix.last[cursor.column - 1] + 0.5 : matrix.first[0] - 0.5;
    const [left, right] = [axis.pixel(from), axis.pixel(matrix.last[cursor.column] + 0.5)];
    const tall = height / visible.rows.length;
    const wide = Math.max(right - left, 3);
    const style = { left: (left + right - wide) / 2, top: cursor.row * tall, width: wide, height: Math.max(tall, 3) };
    for (const [key, value] of Object.entries(style)) outline.style.setProperty(key, `${value}px`);
    outline.hidden = document.activeElement !== canvas;
  }

  function draw({ view, axis, matrix, visible, scale, dark }) {
    const height = heatmapHeight(visible.rows.length);
    const key = [
      matrix,
      visible,
      view.mode,
      axis.first,
      axis.last,
      axis.width,
      scale.low,
      scale.high,
      scale.kind,
      dark,
    ];
    if (shown && view.layer === shown.view.layer && key.every((part, at) => part === shown.key[at])) return;
    if (cursor && shown && shown.matrix !== matrix)
      cursor.column = Math.max(columnAt(matrix, shown.matrix.last[cursor.column]), 0);
    const cells =
      shown && shown.matrix === matrix && shown.visible === visible && shown.view.mode === view.mode
        ? shown.cells
        : cellsOf(matrix, visible.rows, view.mode);
    shown = { view, axis, matrix, visible, height, cells, joined: cells.joined, key };
    plot.style.height = gutter.style.height = `${height}px`;
    drawGutter(gutter, visible, height / Math.max(visible.rows.length, 1), view.layer, card.actions);
    if (visible.rows.length && axis.width >= 1) drawCells(canvas, rims, shown, scale, dark);
    placeCursor();
  }

  return { name: "heatmap", gutter, plot, live, draw };
}

function drawCells(canvas, rims, { axis, matrix, visible, height, cells }, scale, dark) {
  const width = Math.round(axis.width);
  const values = pooledPixels(cells, columnsOfPixels(matrix, axis, width), Math.min(visible.rows.length, height));
  const small = new OffscreenCanvas(width, values.length / width);
  small.getContext("2d").putImageData(paint(values, width, scale, dark), 0, 0);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, width, height);
  rims.draw(values, width, height, scale.kind === "counts");
}

function showTip(tip, cell, x, y, shown) {
  tip.hidden = !cell;
  if (!cell) return;
  const { view, axis, height } = shown;
  replace(
    tip,
    element("b", {}, cell.layer),
    cell.of && element("span", {}, cell.of),
    element("span", {}, cell.when),
    element("span.value", {}, cell.value),
    cell.usual && element("span", {}, cell.usual),
  );
  tip.dataset.metric = view.metric;
  tip.style.left = x > axis.width / 2 ? "auto" : `${x + 14}px`;
  tip.style.right = x > axis.width / 2 ? `${axis.width - x + 14}px` : "auto";
  tip.style.top = y > height / 2 ? "auto" : `${y + 12}px`;
  tip.style.bottom = y > height / 2 ? `${height - y + 12}px` : "auto";
}
