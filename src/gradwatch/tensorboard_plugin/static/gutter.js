// The names beside a heatmap: unfolded modules as brackets around their layers, a click away from being folded.

import { button, element, replace, short } from "./dom.js";
import { layerTitle } from "./readout.js";

export const LINE = 11; // pixels that a line of text needs
const BRACKET = 15;
const TITLED = 34; // pixels of height from which on a bracket has its name in it
const LETTER = 6.6; // pixels of width, in wide fonts
const LEAST = 6; // pixels of height that a bracket needs
const APART = 3; // lines between names of what is smaller than a line: as ticks of an axis
const DEEPEST = 4; // brackets beside one another; deeper modules have none

/**
 * Draw the gutter.
 *
 * @param {HTMLElement} gutter
 * @param {{rows: object[], spans: object[]}} visible from `visibleRows`.
 * @param {number} height of a row, in pixels; may be less than one.
 * @param {string|null} chosen the layer whose curves are shown.
 * @param {{fold: (path: string) => void, layer: (name: string) => void}} actions
 */
export function drawGutter(gutter, { rows, spans }, height, chosen, actions) {
  const brackets = spans.filter((span) => span.depth < DEEPEST && (span.to - span.from) * height >= LEAST);
  const deepest = brackets.reduce((most, span) => Math.max(most, span.depth + 1), 0);
  const left = deepest * BRACKET + 4;
  const letters = Math.max(Math.floor((gutter.clientWidth - left) / LETTER), 8);
  const names =
    height >= LINE
      ? rows.map((row, at) => {
          const label = short(labelOf(row.name, at, at + 1, brackets, height), letters);
          return name(row, label, placed(at * height, height, left), chosen, actions);
        })
      : ticks(rows, brackets, { height, left, letters }, chosen, actions);
  const focused = document.activeElement?.dataset.key;
  replace(
    gutter,
    brackets.map((span) => bracket(span, height, actions)),
    names,
  );
  const stop = [...gutter.children].find((one) => one.dataset.key === focused) ?? gutter.firstElementChild;
  stop?.setAttribute("tabindex", "0");
}

/** Let arrow keys walk through the names: all of them are one stop of the Tab key. */
export function walkNames(event) {
  const move = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
  const names = [...event.currentTarget.children];
  const next = names[names.indexOf(event.target) + move];
  if (!move || !next) return;
  event.preventDefault();
  event.target.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}

/** Whether the bracket of a module is tall enough for its name. */
function isTitled(span, height) {
  return (span.to - span.from) * height >= TITLED;
}

function bracket(span, height, { fold }) {
  const tall = (span.to - span.from) * height;
  const style = placed(span.from * height, tall - 1, span.depth * BRACKET);
  const text = isTitled(span, height) ? element("span", {}, lastParts(span.label, tall / 6.2)) : null;
  const title = `${span.path} (${span.to - span.from} rows): click to fold`;
  return button(text, () => fold(span.path), {
    class: "bracket",
    "data-key": `[${span.path}`,
    tabindex: "-1",
    style,
    title,
    "aria-expanded": "true",
    "aria-label": `Fold ${span.path}`,
  });
}

/** Return the name of a row or module, at these rows, without the modules around it that are named in their brackets. */
function labelOf(path, from, to, brackets, height) {
  const isAround = (span) => span.from <= from && to <= span.to && span.to - span.from > to - from;
  const named = brackets.filter((span) => isAround(span) && isTitled(span, height)).sort((a, b) => b.depth - a.depth)[0];
  return named ? path.slice(named.path.length + 1) || "(itself)" : layerTitle(path, Infinity);
}

const placed = (top, height, left) => ({ top: `${top}px`, height: `${height}px`, left: `${left}px` });

function name(row, label, style, chosen, { fold, layer }) {
  const whole = layerTitle(row.name, 400);
  if (row.folded) {
    const title = `${whole} (${row.members.length} layers): click to unfold`;
    const content = [label, element("small", {}, ` ${row.members.length}`)];
    return button(content, () => fold(row.name), {
      class: "name folded",
      "data-key": row.name,
      tabindex: "-1",
      style,
      title,
      "aria-expanded": "false",
      "aria-label": `Unfold ${whole}`,
    });
  }
  return button(label, () => layer(row.name), {
    class: "name",
    "data-key": row.name,
    tabindex: "-1",
    style,
    title: whole,
    "aria-pressed": String(row.name === chosen),
    "aria-label": `Curves of ${whole}`,
  });
}

/**
 * Return names for orientation where rows are lower than a line: of the innermost modules, of those around them that
 * have no name in a bracket, and of single rows where there is room left. They are whole if those of the modules fit.
 */
function ticks(rows, brackets, { height, left, letters }, chosen, actions) {
  const modules = brackets.filter((span) => !isTitled(span, height)).sort((a, b) => b.depth - a.depth || a.from - b.from);
  const around = modules.every(({ path }) => path.length <= letters) ? [] : brackets;
  const middle = ({ from, to }) => ((from + to) / 2) * height;
  const taken = [];
  for (const one of [...modules, ...rows.map((row, at) => ({ row, path: row.name, from: at, to: at + 1 }))]) {
    const room = (one.to - one.from) * height < LINE ? APART * LINE : LINE;
    if (!taken.some((other) => Math.abs(middle(other) - middle(one)) < room)) taken.push(one);
  }
  return taken.sort((a, b) => middle(a) - middle(b)).map((one) => {
    const label = lastParts(labelOf(one.path, one.from, one.to, around, height), letters);
    const style = placed(middle(one) - LINE / 2 - 1, LINE + 2, left);
    return one.row ? name(one.row, label, style, chosen, actions) : group(one, label, style, actions);
  });
}

function group({ path }, label, style, { fold }) {
  return button(label, () => fold(path), {
    class: "name group",
    "data-key": path,
    style,
    title: `${path}: click to fold`,
    tabindex: "-1",
  });
}

function lastParts(label, letters) {
  return label.length <= letters ? label : `…${label.slice(label.length - Math.max(Math.floor(letters) - 1, 1))}`;
}
