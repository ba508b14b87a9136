// From values to levels of a colour scale. Colours mean orders of magnitude; the extreme half per cent at either end is
// left out, so that one spike does not take the colours from all the rest.

import { LEVELS, NONFINITE, UNKNOWN, ZERO } from "./colours.js";
import { NOT_KNOWN } from "./cells.js";

const OUTSIDE = 0.005;
const LEAST_DECADES = 0.5;
const RELATIVE_DECADES = [Math.log10(4), 2]; // at least /4 to 4×, for noise is no news; at most /100 to 100×
const SAMPLES = 40000;

/** A scale: `low` and `high` are powers of ten, `kind` names the colours. */
const scale = (kind, low, high) => ({ kind, low, high });

function usableLogs(matrices) {
  const logs = [];
  const total = matrices.reduce((sum, values) => sum + values.length, 0);
  const stride = Math.max(1, Math.floor(total / SAMPLES) | 1); // odd: does not fall in step with a number of layers
  for (const values of matrices) {
    for (let index = 0; index < values.length; index += stride) {
      if (values[index] > 0 && values[index] < Infinity) logs.push(Math.log10(values[index]));
    }
  }
  return logs.sort((a, b) => a - b);
}

const quantile = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.round(part * (sorted.length - 1)))];

/** Return the range that all but the most extreme positive values of `matrices` lie in. */
export function absoluteScale(matrices) {
  const logs = usableLogs(matrices);
  if (!logs.length) return scale("absolute", -1, 1);
  const [low, high] = [quantile(logs, OUTSIDE), quantile(logs, 1 - OUTSIDE)];
  const missing = Math.max(LEAST_DECADES - (high - low), 0);
  return scale("absolute", low - missing / 2, high + missing / 2);
}

/** Return a range that has 1 in its middle. */
export function relativeScale(matrices) {
  const widths = usableLogs(matrices)
    .map(Math.abs)
    .sort((a, b) => a - b);
  const widest = widths.length ? quantile(widths, 1 - 2 * OUTSIDE) : 0;
  const decades = Math.min(Math.max(widest, RELATIVE_DECADES[0]), RELATIVE_DECADES[1]);
  return scale("relative", -decades, decades);
}

/** Return the range of counts: from 1 to the largest, which is no outlier but the news. */
export function countScale(matrices) {
  let largest = 1;
  for (const values of matrices) for (const value of values) if (value < Infinity && value > largest) largest = value;
  return scale("counts", 0, Math.max(Math.log10(largest), 1));
}

/** Return the level of one value: one of the scale, or ZERO, NONFINITE, UNKNOWN. */
export function level(value, { low, high }) {
  if (value > 0 && value < Infinity) {
    const part = (Math.log10(value) - low) / (high - low);
    return Math.round(Math.min(Math.max(part, 0), 1) * (LEVELS - 1));
  }
  if (value === 0) return ZERO;
  return value === NOT_KNOWN ? UNKNOWN : NONFINITE;
}

/** Return the round values to write at a scale, with their place between 0 and 1. */
export function scaleTicks({ low, high }) {
  const place = (power) => (power - low) / (high - low);
  const all = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
    for (const factor of high - low > 2.5 ? [1] : [1, 2, 5]) all.push(factor * 10 ** power);
  }
  const inside = all.filter((value) => place(Math.log10(value)) > -0.01 && place(Math.log10(value)) < 1.01);
  const every = Math.ceil(inside.length / 6);
  return inside.filter((_, index) => index % every === 0).map((value) => ({ value, at: place(Math.log10(value)) }));
}
