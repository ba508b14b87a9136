// What has been fetched: asked for by whoever draws it, drawn when it has come.
//
// `data.matrix(run, ...)` returns at once what is known, be it of an earlier state of the run, and fetches what is new.
// A picture never goes blank because a run has gone on.

import { fetchCurves, fetchEvents, fetchLayer, fetchMatrix } from "./requests.js";

const MOST = 200; // answers kept; more than all cards ask for in one drawing

/** Return a cache that calls `arrived` whenever an answer has come. */
export function createData(arrived) {
  const kept = new Map();
  let waiting = 0;

  function ask(kind, fetcher, run, parameters) {
    const key = JSON.stringify([kind, run.name, parameters]);
    const entry = kept.get(key) ?? { value: null, error: null, revision: null };
    kept.delete(key);
    kept.set(key, entry); // the last used is the last to go
    if (kept.size > MOST) kept.delete(kept.keys().next().value);
    if (entry.revision !== run.revision) fill(entry, fetcher({ run: run.name, ...parameters }), run.revision);
    return entry;
  }

  async function fill(entry, answer, revision) {
    entry.revision = revision;
    waiting += 1;
    let found;
    try {
      found = { value: await answer, error: null };
    } catch (error) {
      found = { value: entry.value, error };
    }
    waiting -= 1;
    if (entry.revision === revision) Object.assign(entry, found); // else a later question is under way
    arrived();
  }

  return {
    /** Return whether answers are still to come. */
    waits: () => waiting > 0,
    /** Let what could not be had be asked for anew: a run that has ended will never be a reason to. */
    retry() {
      for (const entry of kept.values()) if (entry.error) entry.revision = null;
    },
    matrix: (run, { metric, optimizer, from = null, to = null, columns }) =>
      ask("matrix", fetchMatrix, run, { metric, optimizer, from, to, columns }),
    curves: (run, optimizer) => ask("curves", fetchCurves, run, { optimizer }),
    layer: (run, optimizer, layer) => ask("layer", fetchLayer, run, { optimizer, layer }),
    events: (run) => ask("events", fetchEvents, run, {}),
  };
}
