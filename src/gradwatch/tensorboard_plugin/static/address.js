// Deep links: the view in the address of TensorBoard's own page, in the form that it keeps for plugins
// (`p.<plugin>.<key>=<value>`), beside what TensorBoard writes there itself.

import { HALF_SURROGATE } from "./dom.js";
import { METRICS, START } from "./store.js";

const PREFIX = "p.numerical_health.";
const list = {
  read: (text) => (text ? text.split(",").map(decodeURIComponent) : []),
  write: (names) => names.map(encoded).join(","),
};
const text = { read: (value) => value, write: (value) => value };
const integer = { read: wholeNumber, write: String };
const oneOf = (names) => ({ read: (value) => (names.includes(value) ? value : undefined), write: text.write });

const KEYS = {
  runs: list,
  metric: oneOf(METRICS.map((metric) => metric.name)),
  mode: oneOf(["absolute", "relative"]),
  optimizer: integer,
  zoom: { read: stepRange, write: (range) => range.join("-") },
  layer: text,
  step: integer,
  folded: list,
  filter: text,
  event: text,
};

function wholeNumber(value) {
  return /^\d{1,15}$/.test(value) ? Number(value) : undefined;
}

function stepRange(value) {
  const [from, to] = value.split("-").map(wholeNumber);
  return from <= to ? [from, to] : undefined;
}

/** Return the view that an address asks for; what it says wrongly or not at all is as at the start. */
export function readAddress(hash) {
  const view = {};
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [name, value] = part.split("=");
    if (value === undefined || !name.startsWith(PREFIX)) continue;
    const key = name.slice(PREFIX.length);
    const read = Object.hasOwn(KEYS, key) ? attempt(() => KEYS[key].read(decodeURIComponent(value))) : undefined;
    if (read !== undefined) view[key] = read;
  }
  return view;
}

/** Return `hash` with the view in it; what is as at the start is left out. */
export function writeAddress(hash, view) {
  const others = hash
    .replace(/^#/, "")
    .split("&")
    .filter((part) => part && !part.startsWith(PREFIX));
  const ours = Object.entries(KEYS)
    .filter(([key]) => view[key] !== null && JSON.stringify(view[key]) !== JSON.stringify(START[key]))
    .map(([key, { write }]) => `${PREFIX}${key}=${encoded(write(view[key]))}`);
  return `#${[...others, ...ours].join("&")}`;
}

/** Half a surrogate pair, which a name may have, has no place in an address. */
function encoded(part) {
  return encodeURIComponent(part.replace(HALF_SURROGATE, "\ufffd"));
}

function attempt(action) {
  try {
    return action();
  } catch {
    return undefined; // an address that somebody has cut or mistyped
  }
}
