// A strip with curves over the axis of steps, as high as it needs to be and no higher.

import { valueAxis } from "./axis.js";
import { element, replace } from "./dom.js";
import { number } from "./formats.js";
import { followSteps } from "./gestures.js";

/**
 * Return a lane with curves.
 *
 * @param {object} card what it shares with the other lanes of its run.
 * @param {object} about
 * @param {string} about.title
 * @param {string} about.note what the numbers are.
 * @param {{name: string, label: string, tone: string, style?: "line"|"faint"|"limit"|"bars", digits?: number}[]}
 *   about.curves
 * @param {object} [about.axis] options of `valueAxis`.
 */
export function createChart(card, about) {
  const canvas = element("canvas", { "aria-hidden": "true" });
  const plot = element("div.plot.chart", {}, canvas);
  const readings = element("div.readings");
  const ticks = element("div.ticks", { "aria-hidden": "true" });
  const heading = element("b", { title: about.note }, about.title);
  const gutter = element("div.gutter.about", {}, heading, readings, ticks);
  let shown = null;
  const pointAgain = followSteps(plot, card, () => shown.axis);

  const known = (data) => about.curves.filter(({ name }) => data?.series[name]?.some((value) => value !== null));

  function draw({ axis, dark }, data) {
    const curves = shown?.data === data ? shown.curves : known(data);
    gutter.hidden = plot.hidden = !curves.length;
    if (!curves.length || axis.width < 1) return;
    const key = [data, axis.first, axis.last, axis.width, dark];
    if (shown && key.every((part, at) => part === shown.key[at])) return;
    const range = visibleRange(data, axis);
    shown = { axis, data, curves, range, key };
    paint(canvas, plot, shown, about.axis, ticks);
    pointAgain();
  }

  /** Show the values at a step. */
  function read(step) {
    if (!shown || plot.hidden) return;
    const { data, curves } = shown;
    const at = rowAt(data, step);
    replace(
      readings,
      curves.map(({ name, label, tone, digits }) =>
        element(
          `span.reading.${tone}`,
          {},
          element("i"),
          `${label} `,
          element("span.value", {}, at < 0 ? "–" : number(data.series[name][at], digits)),
        ),
      ),
    );
  }

  return { name: about.title, gutter, plot, draw, read };
}

/** Return the row that a step belongs to: the first that ends at it or later. */
export function rowAt({ first, last }, step) {
  if (!last.length || step < first[0] - 0.5 || step > last[last.length - 1] + 0.5) return -1;
  return lowerBound(last, step - 0.5);
}

function lowerBound(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const half = (low + high) >> 1;
    if (sorted[half] < value) low = half + 1;
    else high = half;
  }
  return low;
}

/** Return the rows in view, first and behind the last, with one on either side for the line to run on. */
function visibleRange({ last }, axis) {
  return [Math.max(lowerBound(last, axis.first) - 1, 0), Math.min(lowerBound(last, axis.last) + 2, last.length)];
}

function paint(canvas, plot, { axis, data, curves, range }, scale, ticks) {
  const height = plot.clientHeight;
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(axis.width * density);
  canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d");
  context.scale(density, density);
  const style = getComputedStyle(plot);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const inView = curves.flatMap(({ name }) => data.series[name].slice(...range)).filter((value) => value !== null);
  const values = valueAxis(inView, scale);
  const y = (value) => 4 + (height - 8) * (1 - values.place(value));
  drawTicks(context, ticks, values.ticks(height > 50 ? 3 : 2), y, axis.width, height, colour("rule"));
  const bars = curves.filter(({ name, style }) => style === "bars" && data.series[name].some((value) => value > 0));
  for (const curve of [...curves].reverse()) {
    const slot = [Math.max(bars.indexOf(curve), 0), bars.length];
    drawCurve(context, curve, data, range, axis, y, colour, height, slot);
  }
}

function drawTicks(context, ticks, values, y, width, height, colour) {
  const inside = values.filter((value) => y(value) >= 2 && y(value) <= height - 2);
  context.strokeStyle = colour;
  for (const value of inside) {
    context.beginPath();
    context.moveTo(0, Math.round(y(value)) + 0.5);
    context.lineTo(width, Math.round(y(value)) + 0.5);
    context.stroke();
  }
  replace(
    ticks,
    inside.map((value) => element("span", { style: { top: `${y(value)}px` } }, number(value, 3))),
  );
}

function drawCurve(context, { name, tone, style }, data, [from, to], axis, y, colour, height, slot) {
  const values = data.series[name];
  context.strokeStyle = context.fillStyle = colour(tone);
  context.lineWidth = style === "faint" ? 1 : style === "limit" ? 1 : 1.5;
  context.globalAlpha = style === "faint" ? 0.55 : 1;
  context.setLineDash(style === "limit" ? [5, 4] : []);
  if (style === "bars") drawBars(context, values, data, from, to, axis, y, height, slot);
  else drawLine(context, values, data, from, to, axis, y);
  context.globalAlpha = 1;
  context.setLineDash([]);
  context.fillStyle = colour("incident");
  for (let row = from; row < to; row += 1) {
    if (values[row] !== null && !Number.isFinite(values[row]))
      context.fillRect(axis.pixel(data.last[row]) - 1.5, 0, 3, 7);
  }
}

function drawLine(context, values, { last }, from, to, axis, y) {
  context.beginPath();
  let drawn = false;
  for (let row = from; row < to; row += 1) {
    const place = values[row] === null ? NaN : y(values[row]);
    if (!Number.isFinite(place)) {
      drawn = false;
      continue;
    }
    const x = axis.pixel(last[row]);
    if (drawn) context.lineTo(x, place);
    else {
      context.moveTo(x, place);
      context.lineTo(x + 0.5, place); // a value between two gaps is a dot
    }
    drawn = true;
  }
  context.stroke();
}

/** Draw a bar a row; bars of several curves share the width of the row, each has one `slot` of so many. */
function drawBars(context, values, { first, last }, from, to, axis, y, height, [slot, slots]) {
  for (let row = from; row < to; row += 1) {
    if (!(values[row] > 0)) continue;
    const left = axis.pixel((row ? last[row - 1] : first[0] - 1) + 0.5);
    const width = Math.max((axis.pixel(last[row] + 0.5) - left) / slots, 2);
    context.fillRect(left + slot * width, y(values[row]), width, height - y(values[row]));
  }
}
