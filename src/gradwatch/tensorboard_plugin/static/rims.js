// Two rims of a heatmap that say where to look: the steps (above) and the layers (left) with something not finite. One
// pixel among half a million is seen by nobody; where its two marks cross it is found.

import { NONFINITE_COLOUR, css } from "./colours.js";
import { element } from "./dom.js";

const LEAST = 3; // pixels

/** Return the two rims: `{above, left, draw}`. */
export function createRims() {
  const above = element("canvas.rim.above", { "aria-hidden": "true" });
  const left = element("canvas.rim.left", { "aria-hidden": "true" });

  /** Draw them for the pixels of a picture that is stretched to `height`; `counts`: pixels count what is not finite. */
  function draw(values, width, height, counts) {
    const rows = values.length / width;
    const [columns, lines] = [new Set(), new Set()];
    values.forEach((value, index) => {
      if (Number.isFinite(value) && !(counts && value > 0)) return; // what is not known is finite
      columns.add(index % width);
      lines.add(Math.floor(index / width));
    });
    strokes(above, width, 4, (context) => columns.forEach((at) => context.fillRect(at - 1, 0, LEAST, 4)));
    const tall = height / rows;
    strokes(left, 4, height, (context) => lines.forEach((at) => context.fillRect(0, at * tall, 4, Math.max(tall, LEAST))));
  }

  return { above, left, draw };
}

function strokes(canvas, width, height, paint) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.fillStyle = css(NONFINITE_COLOUR);
  paint(context);
}
