// Tensors in words: those of the operation that a value was born in, and those that it reached.

import { element, short } from "./dom.js";
import { count, number, whole } from "./formats.js";

const MOST_NAMES = 400;

/** Return a table: the first `heads` columns of text, then numbers. */
export function table(heads, rows, textColumns = 1) {
  const cell = (tag) => (content, at) => element(at < textColumns ? tag : `${tag}.n`, {}, content);
  return element(
    "div.scroll",
    { tabindex: "0" },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, heads.map(cell("th")))),
      element(
        "tbody",
        {},
        rows.map((row) => element("tr", {}, row.map(cell("td")))),
      ),
    ),
  );
}

/** Return the inputs and the output of an operation as a table. */
export function tensors({ inputs = [], output = null }) {
  const named = inputs.map((one, index) => [`input ${index}`, one]);
  if (output) named.push(["output", output]);
  if (!named.length) return null;
  const heads = ["tensor", "shape", "dtype", "least", "largest", "NaN", "+∞", "-∞", "zeros"];
  return table(
    heads,
    named.map(([name, one]) => [
      name,
      shape(one.shape),
      one.dtype,
      value(one.min),
      value(one.max),
      ...[one.nan, one.posinf, one.neginf, one.zeros].map((number_) => whole(number_ ?? 0)),
    ]),
    3,
  );
}

const shape = (sizes) => (sizes?.length ? sizes.join(" × ") : "a number");
const value = (found) => (typeof found === "string" ? found : number(found));

/** Return the names of what became non-finite, folded away: there may be thousands. */
export function affected(names = []) {
  if (!names.length) return null;
  const shown = names
    .slice(0, MOST_NAMES)
    .map((name) => short(name, 200))
    .join(", ");
  return element(
    "details",
    {},
    element("summary", {}, `Affected: ${count(names.length, "tensor")}`),
    element("p.mono", {}, shown, names.length > MOST_NAMES ? ", …" : ""),
  );
}
