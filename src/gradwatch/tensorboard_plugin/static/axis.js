// The axis of steps that all panels share, and axes of values.

const ROUND = [1, 2, 5, 10];

/** Return round numbers between `low` and `high`, about `most` of them. */
export function roundValues(low, high, most, least = 0) {
  const rough = (high - low) / Math.max(most, 1);
  if (!(rough > 0)) return [low];
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(unit * ROUND.find((factor) => unit * factor >= rough * 0.999), least);
  const values = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index += 1)
    values.push(index * step + 0); // no -0
  return values;
}

/**
 * Return the axis of steps: each step is as wide as the next, its own number in the middle.
 *
 * @param {[number, number]} range first and last step shown.
 * @param {number} width in CSS pixels.
 */
export function stepAxis([first, last], width) {
  const [low, high] = [first - 0.5, last + 0.5];
  const scale = width / (high - low);
  return {
    first,
    last,
    width,
    pixel: (step) => (step - low) * scale,
    step: (pixel) => low + pixel / scale,
    ticks: () => roundValues(first, last, Math.max(2, width / 96), 1),
  };
}

/** Return a range of whole steps inside `bounds`, at least one step wide. */
export function clampRange([from, to], [first, last]) {
  const span = Math.min(Math.max(Math.round(to - from), 0), last - first);
  const start = Math.min(Math.max(Math.round(from), first), last - span);
  return [start, start + span];
}

/** Return what of a range lies inside `bounds`, and the nearest one of its width where nothing does. */
export function insideRange([from, to], [first, last]) {
  if (from > last || to < first) return clampRange([from, to], [first, last]);
  return [Math.max(from, first), Math.min(to, last)];
}

/** Return an axis of values, from 0 at the bottom to 1; by orders of magnitude where they span more than 30×. */
export function valueAxis(values, { log = null, bottom = null, top = null } = {}) {
  const known = values.filter((value) => Number.isFinite(value));
  if (bottom !== null) known.push(bottom);
  if (top !== null) known.push(top);
  if (!known.length) return linear(0, 1);
  const [low, high] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
  if (log ?? (low > 0 && high > 30 * low)) return logarithmic(known.filter((value) => value > 0));
  const air = 0.08 * (high - low) || 0.08 * Math.abs(high) || 1;
  return linear(bottom ?? (low < 0 || low > air ? low - air : 0), high + air);
}

function linear(low, high) {
  const place = (value) => (value - low) / (high - low);
  return { place, ticks: (most) => roundValues(low, high, most) };
}

function logarithmic(values) {
  if (!values.length) return linear(0, 1);
  const ends = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))].map(Math.log10);
  const air = Math.max(0.08 * (ends[1] - ends[0]), 0.05);
  const [low, high] = [ends[0] - air, ends[1] + air];
  const place = (value) => (value > 0 ? (Math.log10(value) - low) / (high - low) : NaN);
  const ticks = (most) => {
    const powers = roundValues(Math.ceil(low), Math.floor(high), most, 1).filter(
      (power) => power >= low && power <= high,
    );
    return powers.length > 1 ? powers.map((power) => 10 ** power) : [10 ** (low + air), 10 ** (high - air)];
  };
  return { place, ticks };
}
