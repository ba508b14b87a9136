// The heatmap of a run: layers downwards, steps across.

import { createCursor } from "./cursor.js";
import { element, replace } from "./dom.js";
import { followPointer, viewOf } from "./gestures.js";
import { drawGutter, LINE, walkNames } from "./gutter.js";
import { cellsOf, columnAt, columnsOfPixels, paint, pooledPixels } from "./picture.js";
import { cellAt, metricTitle } from "./readout.js";
import { createRims } from "./rims.js";

const TALLEST_ROW = 18;
const ROOM = 480; // pixels of height that rows share, but for a line of text each as long as that is less than MOST
const KEYS = "Arrow keys move a cursor, Enter opens the cell, plus and minus zoom, 0 shows all.";
const MOST = 560; // above that several layers share a pixel

/** Return how high a heatmap of `rows` rows is. */
function heatmapHeight(rows) {
  const least = rows * LINE <= MOST ? LINE : 1;
  return Math.min(rows * Math.min(Math.max(Math.floor(ROOM / rows), least), TALLEST_ROW), MOST);
}

/** Return the lane of the heatmap: `{gutter, plot, live, draw}`. `card` is what the lanes of a run share. */
export function createHeatmap(card) {
  const canvas = element("canvas", {
    tabindex: "0",
    role: "application",
    "aria-roledescription": "heatmap",
    "aria-label": `Layers by steps of run ${card.run.name}. ${KEYS}`,
  });
  const tip = element("div.tip", { hidden: true, "aria-hidden": "true" });
  const rims = createRims();
  const gutter = element("div.gutter.names", { role: "group", "aria-label": "Layers", on: { keydown: walkNames } });
  let shown = null; // what is on the canvas

  const cell = ({ row, column }) => cellAt(shown.matrix, shown.visible.rows[row], column, shown.view, shown.joined);
  const open = (place) => card.store.change({ layer: cell(place).name, step: shown.matrix.last[place.column] });
  const cursor = createCursor(canvas, card, { shown: () => shown, cell, open });
  const plot = element("div.plot.heat", {}, canvas, rims.above, rims.left, cursor.outline, tip);

  const pointAgain = followPointer(plot, {
    axis: () => shown.axis,
    bounds: card.bounds,
    ...viewOf(card.store),
    choose(x, y) {
      const place = placeAt(shown, x, y);
      if (place) open(place);
    },
    point(x, y) {
      const place = x === null ? null : placeAt(shown, x, y);
      card.point(x === null || !shown ? null : shown.axis.step(x));
      showTip(tip, place && cell(place), x, y, shown);
    },
  });

  function draw({ view, axis, matrix, visible, scale, dark }) {
    const { first, last, width } = axis;
    const key = [matrix, visible, view.mode, view.layer, first, last, width, scale.low, scale.high, scale.kind, dark];
    if (shown && key.every((part, at) => part === shown.key[at])) return;
    if (shown) cursor.follow(shown.matrix, matrix);
    const isKept = shown && [0, 1, 2].every((at) => key[at] === shown.key[at]);
    const cells = isKept ? shown.cells : cellsOf(matrix, visible.rows, view.mode);
    const height = heatmapHeight(visible.rows.length);
    shown = { view, axis, matrix, visible, height, cells, joined: cells.joined, key };
    plot.style.height = gutter.style.height = `${height}px`;
    drawGutter(gutter, visible, height / Math.max(visible.rows.length, 1), view.layer, card.actions);
    if (visible.rows.length) drawCells(canvas, rims, shown, scale, dark);
    cursor.draw();
    cursor.tell();
    pointAgain();
  }

  return { name: "heatmap", gutter, plot, live: cursor.live, draw };
}

/** Return the row and the column at a place of the picture, null where there is nothing. */
function placeAt(shown, x, y) {
  const rows = shown?.visible.rows.length;
  if (!rows) return null;
  const column = columnAt(shown.matrix, shown.axis.step(x));
  return column < 0 ? null : { row: Math.min(Math.max(Math.floor((y * rows) / shown.height), 0), rows - 1), column };
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
    element("span", {}, metricTitle(view.metric)),
    element("span.value", {}, cell.value),
    cell.usual && element("span", {}, cell.usual),
  );
  tip.dataset.metric = view.metric;
  tip.style.left = x > axis.width / 2 ? "auto" : `${x + 14}px`;
  tip.style.right = x > axis.width / 2 ? `${axis.width - x + 14}px` : "auto";
  tip.style.top = y > height / 2 ? "auto" : `${y + 12}px`;
  tip.style.bottom = y > height / 2 ? `${height - y + 12}px` : "auto";
}
