// Gradient checks: the verdict of each, and what it says of each parameter.

import { button, element, replace, short } from "./dom.js";
import { count, number, whole } from "./formats.js";
import { table } from "./tensors.js";

const MOST = 50;
const MOST_PARAMETERS = 300;
const RANK = ["mismatch", "kink", "explained", "not_resolvable", "not_checkable", "pass"];

const words = (verdict) => short(verdict, 40).replaceAll("_", " ");
const numeric = (value) => (typeof value === "string" ? Number(value) : value); // "NaN", "Infinity"

/** Return the section with the checks: `{element, draw}`. */
export function createChecks(card) {
  const body = element("div");
  const heading = element("h3");
  const section = element("section.checks", {}, heading, body);
  let opened = null;
  let shown = null;

  function draw(checks) {
    section.hidden = !checks.length;
    if (shown && shown[0] === checks && shown[1] === opened) return;
    shown = [checks, opened];
    heading.textContent = `Gradient checks (${whole(checks.length)})`;
    replace(
      body,
      table(["step", "verdict", "reason", "largest relative error", "parameters"], checks.slice(-MOST).reverse().map(row), 3),
    );
  }

  function row(check) {
    const key = `${check.step}/${check.time}`;
    const open = () => {
      opened = opened === key ? null : key;
      card.store.refresh();
    };
    const parameters = Object.entries(check.parameters ?? {});
    const verdict = element(
      `span.verdict.${check.verdict === "pass" ? "good" : check.verdict === "mismatch" ? "error" : "note"}`,
      {},
      words(check.verdict),
    );
    const label = button(count(parameters.length, "tensor"), open, {
      class: "quiet",
      "data-key": key,
      "aria-expanded": String(opened === key),
    });
    const told = [short(check.reason, 400), opened === key && detail(parameters)];
    return [whole(check.log_step ?? check.step), verdict, told, number(largest(check, parameters), 3), label];
  }

  return { element: section, draw };
}

/** Return the largest relative error of what passes or mismatches: other errors say nothing. */
function largest(check, parameters) {
  const judged = [
    [check.verdict, check.relative_error],
    ...parameters.map(([, one]) => [one.correct, one.relative_error]),
  ];
  const errors = judged.filter(
    ([verdict, error]) => ["pass", "mismatch"].includes(verdict) && error !== null && error !== undefined,
  );
  return errors.reduce((most, [, error]) => (most === null || numeric(error) > most ? numeric(error) : most), null);
}

function detail(parameters) {
  const sorted = [...parameters].sort(([, a], [, b]) => RANK.indexOf(a.correct) - RANK.indexOf(b.correct));
  const rows = sorted
    .slice(0, MOST_PARAMETERS)
    .map(([name, one]) => [
      short(name, 120),
      words(one.correct),
      ...[one.relative_error, one.norm_error, one.precision_error, one.cosine].map((value) =>
        number(numeric(value), 3),
      ),
    ]);
  return table(["parameter", "correct", "relative error", "norm error", "precision error", "cosine"], rows, 2);
}
