// The names beside a heatmap: unfolded modules as brackets around their layers, a click away from being folded.

import { button, element, replace, short } from "./dom.js";
import { layerTitle } from "./readout.js";

const LINE = 11; // pixels that a line of text needs
const BRACKET = 15;
const TITLED = 34; // pixels of height from which on a bracket has its name in it
const LETTER = 6; // pixels of width
const LEAST = 6; // pixels of height that a bracket needs
const APART = 3; // lines between names of modules that are smaller than a line: as ticks of an axis
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
  const names =
    height >= LINE
      ? rows.map((row, at) => {
          const label = short(
            labelOf(row, at, brackets, height),
            Math.max(Math.floor((gutter.clientWidth - left) / LETTER), 8),
          );
          return name(row, label, at, height, left, chosen, actions);
        })
      : [];
  const groups = height >= LINE ? [] : labels(brackets, height, left, actions);
  const focused = document.activeElement?.dataset.key;
  replace(
    gutter,
    brackets.map((span) => bracket(span, height, actions)),
    names,
    groups,
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

function bracket(span, height, { fold }) {
  const tall = (span.to - span.from) * height;
  const style = { top: `${span.from * height}px`, height: `${tall - 1}px`, left: `${span.depth * BRACKET}px` };
  const text = tall >= TITLED ? element("span", {}, lastParts(span.label, tall / 6.2)) : null;
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

/** Return the name of a row without the modules around it that are named in their brackets. */
function labelOf(row, at, brackets, height) {
  const around = brackets.filter((span) => span.from <= at && at < span.to).sort((a, b) => a.depth - b.depth);
  const untitled = around.findIndex((span) => (span.to - span.from) * height < TITLED);
  const named = (untitled < 0 ? around : around.slice(0, untitled)).at(-1);
  return named ? row.name.slice(named.path.length + 1) || "(itself)" : layerTitle(row.name, Infinity);
}

function name(row, label, at, height, left, chosen, { fold, layer }) {
  const style = { top: `${at * height}px`, height: `${height}px`, left: `${left}px` };
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

/** Return names of modules for orientation: the innermost ones first, then those around them. */
function labels(brackets, height, left, { fold }) {
  const taken = [];
  const found = [];
  for (const span of [...brackets].sort((a, b) => b.depth - a.depth || a.from - b.from)) {
    const middle = ((span.from + span.to) / 2) * height;
    const room = (span.to - span.from) * height < LINE ? APART * LINE : LINE;
    if (taken.some((other) => Math.abs(other - middle) < room)) continue;
    taken.push(middle);
    const style = { top: `${middle - LINE / 2 - 1}px`, height: `${LINE + 2}px`, left: `${left}px` };
    found.push(
      button(span.path, () => fold(span.path), {
        class: "name group",
        "data-key": span.path,
        style,
        title: `${span.path}: click to fold`,
        tabindex: "-1",
      }),
    );
  }
  return found;
}

function lastParts(label, letters) {
  return label.length <= letters ? label : `…${label.slice(label.length - Math.max(Math.floor(letters) - 1, 1))}`;
}
