// Findings and incidents as one list: what happened when, the worst first where they compete for room.

const WORST = ["incident", "error", "warning", "info"];

/**
 * @typedef {object} Happening
 * @property {string} id in addresses: the same after each reload.
 * @property {"incident"|"error"|"warning"|"info"} severity
 * @property {string} title
 * @property {string|null} where a layer, a module, an operation.
 * @property {number} from first and last step on the axis of the loggers.
 * @property {number} to
 * @property {boolean} open whether it has lasted until the end of what was written.
 * @property {object} told what was written.
 */

/** Return all happenings of a run whose rows end at step `last`, by severity and then by time. */
export function happeningsOf({ findings, incidents }, last) {
  const end = incidents.reduce((most, { log_step: step }) => Math.max(most, step), last);
  const seen = new Map();
  const unique = (id) => {
    const before = seen.get(id) ?? 0;
    seen.set(id, before + 1);
    return before ? `${id}.${before}` : id;
  };
  const all = [
    ...incidents.map((told) => incident(told, unique)),
    ...findings.map((told) => finding(told, end, unique)),
  ];
  return all.sort((a, b) => rank(a.severity) - rank(b.severity) || a.from - b.from);
}

const rank = (severity) => (WORST.includes(severity) ? WORST.indexOf(severity) : 1);

function finding(told, last, unique) {
  const from = told.opened;
  const open = told.closed === null;
  const to = open ? Math.max(last, from) : told.closed;
  const severity = WORST.includes(told.severity) ? told.severity : "error"; // one that this version does not know
  return {
    id: unique(`${told.code}@${told.since_step}`),
    severity,
    title: told.code,
    where: told.layer,
    from,
    to,
    open,
    told,
  };
}

function incident(told, unique) {
  const origin = told.origin ?? {};
  const at = told.log_step;
  const born = origin.op || origin.tensor || origin.phase || "unknown";
  const where = origin.module || origin.module_type ? `${born} in ${origin.module || origin.module_type}` : born;
  const title = `Non-finite ${told.first_seen ?? "value"}, ${told.action ?? "seen"}`;
  return {
    id: unique(`incident@${told.step}`),
    severity: "incident",
    title,
    where,
    from: at,
    to: at,
    open: false,
    told,
  };
}
