// The colours of the heatmaps: the scales of the report, computed here from the same published formula.
//
// Both are straight lines in OKLab, whose lightness and distances are close to what people see. Blue and yellow, or
// blue and brown, are told apart by nearly everybody, and lightness alone orders the first scale. What is on no scale
// (zero, non-finite, not known) has a colour far from all of it.
//
// Reference: Björn Ottosson, "A perceptual color space for image processing" (2020),
// https://bottosson.github.io/posts/oklab/

export const LEVELS = 250; // of a scale; what follows is on none
export const ZERO = LEVELS;
export const NONFINITE = LEVELS + 1;
export const UNKNOWN = LEVELS + 2; // transparent: the hatched ground of the plot shows

export const NONFINITE_COLOUR = [255, 0, 255];
export const ZERO_COLOUR = [0, 0, 0];
export const NONE_COLOUR = { light: [233, 236, 240], dark: [62, 64, 68] }; // a count of none is no news

// Lightness (0 to 1), chroma (0 is grey), hue (degrees). Dark blue, grey, light yellow, as cividis.
const SEQUENTIAL = [
  [0.27, 0.1, 262],
  [0.93, 0.15, 100],
];
const BELOW = [0.38, 0.12, 250];
const MIDDLE = [0.96, 0, 0];
const ABOVE = [0.42, 0.1, 60];
// How many values were not finite: from pale to the full colour of "non-finite".
const COUNTS = [
  [0.86, 0.12, 328],
  [0.6, 0.3, 328],
];

function lab([lightness, chroma, hue]) {
  const angle = (hue * Math.PI) / 180;
  return [lightness, chroma * Math.cos(angle), chroma * Math.sin(angle)];
}

/** Return 8-bit sRGB of an OKLab colour, cut where the screen has no such colour. */
function srgb([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((linear) => {
    const light = Math.min(Math.max(linear, 0), 1);
    return Math.round(255 * (light <= 0.0031308 ? 12.92 * light : 1.055 * light ** (1 / 2.4) - 0.055));
  });
}

function line(start, end, levels) {
  const [from, to] = [lab(start), lab(end)];
  const at = (part) => from.map((value, index) => value + part * (to[index] - value));
  return Array.from({ length: levels }, (_, index) => srgb(at(index / (levels - 1))));
}

const SCALES = {
  absolute: line(...SEQUENTIAL, LEVELS),
  relative: [...line(BELOW, MIDDLE, LEVELS / 2), ...line(MIDDLE, ABOVE, LEVELS / 2)],
  counts: line(...COUNTS, LEVELS),
};

/** Return the colours of a scale, "absolute", "relative" or "counts", from its low end to its high one. */
export function scaleColours(kind) {
  return SCALES[kind];
}

/** Return the palette of a scale as pixels of an ImageData: one 32-bit entry a level and for each thing on no scale. */
export function pixels(kind, dark) {
  const bytes = new Uint8ClampedArray(4 * (UNKNOWN + 1));
  const zero = kind === "counts" ? NONE_COLOUR[dark ? "dark" : "light"] : ZERO_COLOUR;
  for (const [index, colour] of [...SCALES[kind], zero, NONFINITE_COLOUR].entries())
    bytes.set([...colour, 255], 4 * index);
  return new Uint32Array(bytes.buffer);
}

/** Return a colour as a style sheet writes it. */
export function css([red, green, blue]) {
  return `rgb(${red}, ${green}, ${blue})`;
}
