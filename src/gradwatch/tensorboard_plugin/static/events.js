// The list of findings and incidents: each opens to what happened, on which evidence, and what to do about it.

import { button, element, plain, replace, short } from "./dom.js";
import { count, moment, number, steps, whole } from "./formats.js";
import { layerTitle } from "./readout.js";
import { layersOf } from "./requests.js";
import { affected, tensors } from "./tensors.js";

const MOST = 100;
const MOST_TEXT = 20000;

/** Return the section with the list: `{element, draw}`. */
export function createEvents(card) {
  const list = element("div.list");
  const more = button(
    "",
    () => {
      all = true;
      shown = null;
      card.store.refresh();
    },
    { class: "quiet", hidden: true },
  );
  const heading = element("h3");
  const section = element("section.events", {}, heading, list, more);
  let all = false;
  let shown = null;

  function draw({ view }, happenings) {
    section.hidden = !happenings.length;
    const key = [happenings, view.event, all];
    if (shown && key.every((part, at) => part === shown[at])) return;
    const jump = view.event !== null && shown?.[1] !== view.event;
    shown = key;
    heading.textContent = `Findings and incidents (${happenings.length})`;
    const listed = happenings.filter((one, at) => all || at < MOST || one.id === view.event);
    replace(
      list,
      listed.map((one) => entry(one, one.id === view.event, card)),
    );
    more.hidden = listed.length === happenings.length;
    more.textContent = `Show all ${whole(happenings.length)}`;
    if (jump) list.querySelector(".entry.open")?.scrollIntoView({ block: "nearest" });
  }

  return { element: section, draw };
}

function entry(one, open, card) {
  const when = one.open ? `since step ${whole(one.from)}` : steps(one.from, one.to);
  const head = button(
    [
      element(`span.badge.${one.severity}`, {}, element("i"), one.severity),
      element(
        "span.what",
        {},
        element("b", {}, short(one.title, 120)),
        element("small", {}, one.where === null ? "the whole model" : layerTitle(one.where, 200)),
      ),
      element("span.when", {}, when),
    ],
    () => card.actions.event(one.id),
    { class: "head", "data-key": one.id, "aria-expanded": String(open) },
  );
  const body =
    open &&
    element("div.inside", {}, one.severity === "incident" ? incident(one.told) : finding(one.told), show(one, card));
  return element(`div.entry${open ? ".open" : ""}`, {}, head, body);
}

/** A button that brings the steps of a happening, and its layer, into view. */
function show(one, card) {
  const air = Math.max(Math.round(0.25 * (one.to - one.from)), 20);
  return button(
    "Show these steps",
    () => {
      card.zoom([one.from - air, one.to + air]);
      if (one.told.layer && layersOf(card.run, card.store.view.optimizer).includes(one.told.layer))
        card.store.change({ layer: one.told.layer });
      card.store.change({ step: one.from });
    },
    { class: "quiet" },
  );
}

function finding(told) {
  const { source, ...evidence } = told.evidence ?? {};
  return [
    paragraph(told.message),
    told.advice && paragraph(told.advice, "p.advice"),
    told.closing && paragraph(told.closing, "p.note"),
    excerpt(source),
    facts(Object.entries(evidence).map(([key, value]) => [short(key, 60), fact(value)])),
  ];
}

function incident(told) {
  const origin = told.origin ?? {};
  const module = [
    origin.module === "" ? "the LightningModule itself" : origin.module,
    origin.module_type && `(${origin.module_type})`,
  ];
  return [
    paragraph(told.explanation),
    told.advice && paragraph(told.advice, "p.advice"),
    excerpt(origin.source),
    facts([
      ["born in", origin.op ? `${origin.op}, ${origin.phase}` : String(origin.phase ?? "").replace("_", " ")],
      ["module", origin.module === null ? null : module.filter(Boolean).join(" ")],
      ["tensor", origin.tensor],
      ["element", origin.index?.join(", ")],
      ["sample of the batch", origin.sample],
      ["transition", origin.transition],
      ["ranks", told.world_size > 1 ? origin.ranks?.join(", ") : null],
      ["cause", origin.cause],
      ["batch", told.batch_idx === null ? null : `${told.batch_idx} of epoch ${told.epoch}`],
      ["when", told.time && moment(told.time)],
      ["reproduced", told.reproduced ? "yes" : "no"],
    ]),
    tensors(origin),
    affected(told.affected),
    told.anomaly_traceback &&
      element(
        "details",
        {},
        element("summary", {}, "Traceback of anomaly mode"),
        element("pre", {}, plain(told.anomaly_traceback).slice(0, MOST_TEXT)),
      ),
    told.folder && copied("Folder", told.folder),
    told.folder && copied("Run the step again", `gradwatch replay ${quoted(told.folder)}`),
  ];
}

function paragraph(text, tag = "p") {
  return text ? element(tag, {}, plain(text).slice(0, MOST_TEXT)) : null;
}

/** Return a line of the user's own code; `source` may be anything that was written as evidence. */
function excerpt(source) {
  if (!source || typeof source !== "object" || !("file" in source)) return null;
  const at = `${source.file}:${source.line}${source.function ? `, in ${source.function}` : ""}`;
  return element(
    "pre",
    {},
    element("span.at", {}, `${short(at, 300)}\n`),
    `    ${plain(source.code ?? "").slice(0, 2000)}`,
  );
}

/** Return names with what they are; what has no value is left out. */
export function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (!told.length) return null;
  return element(
    "dl.facts",
    {},
    told.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

function fact(value) {
  if (typeof value === "number") return number(value, 5);
  if (value === null || typeof value === "boolean" || typeof value === "string") return short(value ?? "–", 600);
  return short(JSON.stringify(value), 600);
}

/** Return a text with a button that copies it: a command to run where the run has run. */
function copied(title, text) {
  const done = element("span.done", { role: "status" });
  const code = element("code", {}, plain(text));
  const copy = button(
    "Copy",
    async () => {
      done.textContent = (await toClipboard(text, code)) ? "copied" : "selected: press Ctrl+C";
    },
    { class: "quiet" },
  );
  return element("div.copy", {}, element("span.note", {}, title), code, copy, done);
}

/** Browsers give pages without TLS no clipboard: then the text is selected, for the reader to copy. */
async function toClipboard(text, code) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}

/** Return a path as a shell reads it as one word. */
function quoted(path) {
  return /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\"'\"'")}'`;
}

/** Return how many of each severity a run has, in words. */
export function countsText(findings, incidents) {
  const parts = [incidents && count(incidents, "incident")];
  for (const severity of ["error", "warning"]) if (findings[severity]) parts.push(count(findings[severity], severity));
  if (findings.info) parts.push(`${whole(findings.info)} info`);
  return parts.filter(Boolean).join(", ") || "nothing found";
}
