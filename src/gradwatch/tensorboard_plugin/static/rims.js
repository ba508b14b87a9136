// Two rims of a heatmap that say where to look: the steps (above) and the layers (left) with something not finite. One
// pixel among half a million is seen by nobody; where its two marks cross it is found.

import { NONFINITE_COLOUR, css } from "./colours.js";
import { element } from "./dom.js";

const WIDE = 4; // pixels of the rim itself,
const LEAST = 3; // and of a mark along it

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
    const tall = height / rows;
    strokes(
      above,
      width,
      WIDE,
      [...columns].map((at) => [at - 1, 0, LEAST, WIDE]),
    );
    strokes(
      left,
      WIDE,
      height,
      [...lines].map((at) => [0, at * tall, WIDE, Math.max(tall, LEAST)]),
    );
  }

  return { above, left, draw };
}

function strokes(canvas, width, height, boxes) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.fillStyle = css(NONFINITE_COLOUR);
  for (const box of boxes) context.fillRect(...box);
}
