// Lines through all panels of a run: where the pointer is, which step is open, where something became non-finite.

import { element, replace } from "./dom.js";

const MOST = 50; // incidents

/** Return the lines: `{element, draw, point}`. */
export function createHairs() {
  const pointed = element("div.hair", { hidden: true });
  const chosen = element("div.hair.chosen", { hidden: true });
  const incidents = element("div");

  return {
    element: element("div.hairs", {}, incidents, pointed, chosen),
    draw(axis, step, happenings) {
      const struck = happenings.filter(({ severity, from }) => severity === "incident" && isInside(axis, from));
      replace(incidents, struck.slice(0, MOST).map(incidentLine(axis)));
      place(chosen, axis, step);
    },
    point: (axis, step) => place(pointed, axis, step),
  };
}

const isInside = (axis, step) => step !== null && step >= axis.first - 0.5 && step <= axis.last + 0.5;

const incidentLine =
  (axis) =>
  ({ from }) =>
    element("div.hair.incident", { style: { left: `${axis.pixel(from)}px` } });

function place(hair, axis, step) {
  hair.hidden = !isInside(axis, step);
  if (!hair.hidden) hair.style.left = `${axis.pixel(Math.round(step))}px`;
}
