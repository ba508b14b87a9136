// Pointer and wheel over anything that has the axis of steps: drag to zoom, shift and drag to move, Alt and wheel to
// zoom (TensorBoard's own choice: a plain wheel scrolls the page), click to choose, double click to see all.

import { clampRange } from "./axis.js";
import { element } from "./dom.js";

const CLICK = 4; // pixels that a hand may tremble
const NOTCH = 1.0015;

/**
 * Let a lane of curves or marks follow pointer and wheel: a click opens its step.
 *
 * @param {HTMLElement} plot positioned; its width is that of the axis.
 * @param {object} card what the lanes of a run share.
 * @param {() => object} axis the axis of steps as it is now.
 * @returns {() => void} as `followPointer`.
 */
export function followSteps(plot, card, axis) {
  return followPointer(plot, {
    axis,
    bounds: card.bounds,
    ...viewOf(card.store),
    choose: (x) => card.actions.step(axis().step(x)),
    point: (x) => card.point(x === null ? null : axis().step(x)),
  });
}

/** Return what a gesture does to the view of `store`: see `followPointer`. */
export function viewOf(store) {
  return {
    zoom: (zoom) => store.change({ zoom }),
    chosen: () => ({ layer: store.view.layer, step: store.view.step }),
    showAll: (chosen) => store.change({ zoom: null, ...chosen }),
  };
}

/**
 * Let `plot` follow pointer and wheel.
 *
 * @param {HTMLElement} plot positioned; its width is that of the axis.
 * @param {object} actions
 * @param {() => object} actions.axis the axis of steps as it is now.
 * @param {() => [number, number]} actions.bounds first and last step of all runs shown.
 * @param {(zoom: [number, number]|null) => void} actions.zoom
 * @param {() => object} actions.chosen what a click may change, as it is now.
 * @param {(chosen: object) => void} actions.showAll a double click; `chosen` is from before the first click of the two.
 * @param {(pixel: number, y: number) => void} actions.choose a click.
 * @param {(pixel: number|null, y: number) => void} actions.point the pointer moves, or (null) leaves.
 * @returns {() => void} to be called when the plot has changed: it points again if the pointer rests on it.
 */
export function followPointer(plot, actions) {
  const brush = element("div.brush", { hidden: true });
  plot.append(brush);
  let [held, resting] = [null, null];
  let before = []; // what was chosen ahead of the last two clicks

  const place = (event) => {
    const box = plot.getBoundingClientRect();
    return [Math.min(Math.max(event.clientX - box.left, 0), box.width), event.clientY - box.top];
  };
  const zoomTo = (range) => actions.zoom(settled(range, actions.bounds()));

  plot.addEventListener("pointerdown", (event) => {
    if (event.button > 1 || event.target.closest("button")) return;
    const [x] = place(event);
    before = [before.at(-1), actions.chosen()];
    held = { x, axis: actions.axis(), moves: event.shiftKey || event.button === 1, far: false };
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointermove", (event) => {
    const [x, y] = (resting = place(event));
    actions.point(x, y);
    if (!held) return;
    held.far ||= Math.abs(x - held.x) > CLICK;
    if (!held.far) return;
    if (held.moves) zoomTo(moved(held.axis, held.axis.step(held.x) - held.axis.step(x)));
    else showBrush(brush, held.x, x);
  });
  plot.addEventListener("pointerup", (event) => {
    if (!held) return;
    const [x, y] = place(event);
    const { axis, far, moves, x: from } = held;
    held = null;
    brush.hidden = true;
    if (!far) actions.choose(x, y);
    else if (!moves) zoomTo([axis.step(Math.min(from, x)), axis.step(Math.max(from, x))]);
  });
  plot.addEventListener("pointercancel", () => {
    held = null;
    brush.hidden = true;
  });
  plot.addEventListener("pointerleave", () => {
    resting = null;
    actions.point(null, 0);
  });
  plot.addEventListener("dblclick", (event) => {
    if (!event.target.closest("button")) actions.showAll(before[0]);
  });
  plot.addEventListener(
    "wheel",
    (event) => {
      const sideways = event.shiftKey ? event.deltaX || event.deltaY : event.deltaX;
      const zooms = event.altKey || event.ctrlKey || event.metaKey;
      if (!zooms && Math.abs(sideways) <= Math.abs(event.shiftKey ? 0 : event.deltaY)) return;
      event.preventDefault();
      const axis = actions.axis();
      if (zooms) zoomTo(zoomed(axis, NOTCH ** event.deltaY, axis.step(place(event)[0])));
      else zoomTo(moved(axis, (sideways / axis.width) * (axis.last - axis.first + 1)));
    },
    { passive: false },
  );
  return () => resting && actions.point(...resting);
}

function showBrush(brush, from, to) {
  brush.hidden = false;
  brush.style.left = `${Math.min(from, to)}px`;
  brush.style.width = `${Math.abs(to - from)}px`;
}

/** Return the range of an axis `factor` times as wide around `centre`; a step is one wide. */
export function zoomed({ first, last }, factor, centre = (first + last) / 2) {
  return [centre + (first - 0.5 - centre) * factor + 0.5, centre + (last + 0.5 - centre) * factor - 0.5];
}

/** Return the range of an axis moved by `steps`. */
export function moved({ first, last }, steps) {
  return [first + steps, last + steps];
}

/** Return a range as the view keeps it: whole steps inside `bounds`, null for all of them. */
export function settled(range, bounds) {
  const [from, to] = clampRange(range, bounds);
  return from <= bounds[0] && to >= bounds[1] ? null : [from, to];
}
