// What the back end answers, as the page wants it. Addresses are relative to this module: TensorBoard may live below a
// path of its own. The routes are described in the package, `tensorboard_plugin/__init__.py`.

import { NOT_KNOWN } from "./cells.js";

const BASE = new URL("./", import.meta.url);

/** An answer that says in words what is wrong. */
export class RequestError extends Error {}

function address(route, parameters) {
  const url = new URL(route, BASE);
  for (const [key, value] of Object.entries(parameters)) if (value !== null) url.searchParams.set(key, value);
  return url;
}

async function answer(route, parameters, headers = {}) {
  let response;
  try {
    response = await fetch(address(route, parameters), { headers });
  } catch {
    throw new RequestError("TensorBoard does not answer. Is it still running?");
  }
  if (response.ok || response.status === 304) return response;
  const told = await response.json().catch(() => ({}));
  throw new RequestError(told.error ? String(told.error) : `TensorBoard answered with status ${response.status}.`);
}

const knownTags = new Map();

/** Return the runs that have data, or null if nothing has changed since the last call. */
export async function fetchRuns() {
  const tag = knownTags.get("runs");
  const response = await answer("runs", {}, tag ? { "If-None-Match": tag } : {});
  if (response.status === 304) return null;
  const text = await response.text();
  if (knownTags.get("text") === text) return null;
  knownTags.set("runs", response.headers.get("ETag")).set("text", text);
  return JSON.parse(text)
    .runs.map(readRun)
    .sort((a, b) => NATURAL.compare(a.name, b.name));
}

const NATURAL = new Intl.Collator("en", { numeric: true }); // version_9 before version_10

function readRun(told) {
  return {
    name: told.name,
    note: told.note ?? null,
    optimizers: told.optimizers ?? [],
    rows: told.first === null || told.first === undefined ? 0 : Math.max(told.rows ?? 0, 1),
    first: told.first ?? 0,
    last: told.last ?? 0,
    findings: told.findings ?? {},
    incidents: told.incidents ?? 0,
    checks: told.checks ?? 0,
    revision: JSON.stringify([told.key, told.rows, told.last]),
  };
}

/** Return the layers of an optimizer of a run, in model order. */
export function layersOf(run, optimizer) {
  return run.optimizers.find((one) => one.optimizer === optimizer)?.layers ?? [];
}

/** Return whether other optimizers than this one are all that is known of a run. */
export function lacks({ optimizers }, optimizer) {
  return optimizers.length > 0 && optimizers.every((one) => one.optimizer !== optimizer);
}

/** Return the numbers of the optimizers that any of the runs has, in order. */
export function optimizersOf(runs) {
  return [...new Set(runs.flatMap((run) => run.optimizers.map((one) => one.optimizer)))].sort((a, b) => a - b);
}

/** Return a binary answer: the length of a header, the header in JSON, numbers. */
async function fetchNumbers(route, parameters, Numbers) {
  const buffer = await (await answer(route, parameters)).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { ...header, values: new Numbers(buffer, 4 + length) };
}

/** Return a matrix of columns x layers: `{layers, first, last, values}`; steps `first[c]` to `last[c]` are column c. */
export function fetchMatrix(parameters) {
  return fetchNumbers("matrix", parameters, Float32Array);
}

/** Return curves over the rows of a run: `{first, last, series}`, null in a series is not known. */
export async function fetchCurves(parameters) {
  const { columns, ...told } = await fetchNumbers("curves", parameters, Float64Array);
  return readSeries(columns, told);
}

/** Return all metrics of one layer (by index) over the rows of a run, in the form of `fetchCurves`. */
export async function fetchLayer(parameters) {
  const { metrics, ...told } = await fetchNumbers("layer", parameters, Float32Array);
  return readSeries(metrics, told);
}

function readSeries(names, { first, last, values }) {
  const rows = (at) =>
    Array.from(values.subarray(at * last.length, (at + 1) * last.length), (value) =>
      value === NOT_KNOWN ? null : value,
    );
  return { first, last, series: Object.fromEntries(names.map((name, at) => [name, rows(at)])) };
}

/** Return `{findings, incidents, checks, starts, ends}`; findings are episodes from their first sign to their end. */
export async function fetchEvents(parameters) {
  const told = await (await answer("events", parameters)).json();
  return { findings: [], incidents: [], checks: [], starts: [], ends: [], ...told };
}
