// When findings lasted and incidents struck, on the axis of steps; each mark opens what is known of it.

import { button, element, replace, short } from "./dom.js";
import { steps } from "./formats.js";
import { followSteps } from "./gestures.js";

const LANE = 16; // pixels
const LEAST = 14; // of width: to be hit by a pointer
const ICON = 10; // its middle is on the step
const MOST_LANES = 8;
const MOST_MARKS = 400;

/** Return the lane with the marks: `{gutter, plot, draw}`. */
export function createTimeline(card) {
  const marks = element("div.marks");
  const plot = element(
    "div.plot.timeline",
    { role: "group", "aria-label": "Findings and incidents over the steps" },
    marks,
  );
  const summary = element("span.note");
  const gutter = element("div.gutter.about", {}, element("b", {}, "Findings and incidents"), summary);
  let shown = null;
  const pointAgain = followSteps(plot, card, () => shown.axis);

  function draw({ axis, view }, happenings) {
    const key = [happenings, axis.first, axis.last, axis.width, view.event];
    if (shown && key.every((part, at) => part === shown.key[at])) return;
    shown = { axis, key };
    const placed = inLanes(happenings, axis);
    const lanes = placed.reduce((most, { lane }) => Math.max(most, lane + 1), 1);
    plot.style.height = gutter.style.minHeight = `${Math.max(lanes * LANE + 6, 34)}px`;
    const within = happenings.filter((one) => visible(one, axis)).length;
    const hidden = within - placed.length;
    summary.textContent = happenings.length
      ? `${within} in view${hidden ? `, ${hidden} more in the list` : ""}`
      : "none: all quiet";
    replace(
      marks,
      placed.map((place) => mark(place, axis, view, card)),
    );
    pointAgain();
  }

  return { name: "timeline", gutter, plot, draw };
}

const visible = ({ from, to }, axis) => to >= axis.first - 0.5 && from <= axis.last + 0.5;

/** Return the marks in view, each in the first lane with room for it; the worst go first. */
function inLanes(happenings, axis) {
  const ends = [];
  const placed = [];
  for (const one of happenings.filter((each) => visible(each, axis)).slice(0, MOST_MARKS)) {
    const left = Math.max(axis.pixel(one.from) - ICON / 2, 0);
    const right = Math.max(Math.min(axis.pixel(one.to), axis.width), left + LEAST);
    let lane = ends.findIndex((taken) => taken.every(([from, to]) => right + 2 < from || left > to + 2));
    if (lane < 0) lane = ends.push([]) - 1;
    if (lane >= MOST_LANES) continue;
    ends[lane].push([left, right]);
    placed.push({ one, lane, left, right });
  }
  return placed;
}

function mark({ one, lane, left, right }, axis, view, card) {
  const label = `${one.severity}: ${one.title}, ${steps(one.from, one.to)}`;
  return button([element("i"), right - left > LEAST && element("span.bar")], () => card.actions.event(one.id), {
    class: `mark ${one.severity}`,
    "data-key": one.id,
    title: short(label, 200),
    "aria-label": short(label, 200),
    "aria-expanded": String(view.event === one.id),
    style: { left: `${Math.min(left, axis.width - LEAST)}px`, top: `${lane * LANE + 4}px`, width: `${right - left}px` },
  });
}
