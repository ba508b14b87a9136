// Numbers and steps as a reader wants them: the same as in the report, with digits in groups of three.

/** Return `value` with `digits` significant digits: 1234, 0.0123, 1.235e-5, NaN, ∞; a dash for what is not known. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  if (value === 0) return "0";
  const exponent = Math.floor(Math.log10(Math.abs(value)));
  if (exponent >= -4 && exponent < digits) return String(Number(value.toPrecision(digits)));
  return value
    .toExponential(digits - 1)
    .replace(/\.?0+e/, "e")
    .replace("e+", "e");
}

/** Return a whole number with its digits in groups: 12,345. */
export function whole(value) {
  return Math.round(value).toLocaleString("en-US");
}

/** Return a number of things: 1 step, 2 steps. */
export function count(value, noun) {
  return `${whole(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** Return a span of steps: step 7, steps 7–12. */
export function steps(first, last) {
  return first === last ? `step ${whole(first)}` : `steps ${whole(first)}–${whole(last)}`;
}

/** Return a factor as it is read next to "its usual": 3.4×. */
export function times(value) {
  return `${number(value, 3)}×`;
}

/** Return a moment as the reader's own clock shows it. */
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleString("en-GB");
}
