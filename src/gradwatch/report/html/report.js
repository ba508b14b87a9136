// What the page does beyond showing: exact values under the pointer, curves of one layer, search, and opening what a
// link leads to. All text reaches the page through textContent: names are data. Without this script nothing is missing
// but these.

const UNKNOWN = 0, NONFINITE = 1, ZERO = 2, FIRST = 3; // codes of values, as embed.py has them
const WIDTH = 1000, HEIGHT = 400; // of a chart's own coordinates, as curves.py has them

const data = JSON.parse(document.getElementById("layer-data")?.textContent ?? "{}");
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// -- numbers ----------------------------------------------------------------------------------------------------------

function written(value, digits = 3) {
  if (value === null || Number.isNaN(value)) return "not known";
  if (!Number.isFinite(value)) return "not finite";
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(digits)));
}

const thousands = (step) => Math.round(step).toLocaleString("en-US");

// -- the values behind the heatmaps -----------------------------------------------------------------------------------

const unpacking = new Map();

/** The codes of one quantity, by layer and column; unpacked when first asked for. */
function codes(optimizer, metric) {
  const key = `${optimizer} ${metric}`;
  if (!unpacking.has(key)) unpacking.set(key, unpack(data.optimizers[optimizer], metric));
  return unpacking.get(key);
}

async function unpack(cells, metric) {
  const columns = cells.first.length;
  const packed = Uint8Array.from(atob(cells[metric].data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const half = bytes.length / 2;
  const found = new Uint16Array(half);
  for (let at = 0; at < half; at++) {
    const before = at % columns ? found[at - 1] : 0;
    found[at] = before + bytes[at] + 256 * bytes[half + at]; // modulo 2**16, as an array of 16 bits does by itself
  }
  return found;
}

function decoded(code, { low, step }) {
  if (code === UNKNOWN) return NaN;
  if (code === NONFINITE) return Infinity;
  return code === ZERO ? 0 : 10 ** (low + (code - FIRST) * step);
}

/** All values of one layer. */
async function layerValues(optimizer, metric, layer) {
  const cells = data.optimizers[optimizer], columns = cells.first.length;
  const found = await codes(optimizer, metric);
  return Array.from(found.subarray(layer * columns, (layer + 1) * columns), (code) => decoded(code, cells[metric]));
}

function median(values) {
  const usable = values.filter((value) => value > 0 && Number.isFinite(value)).sort((a, b) => a - b);
  const middle = usable.length >> 1;
  return usable.length % 2 ? usable[middle] : (usable[middle - 1] + usable[middle]) / 2;
}

/** The column that holds a step. */
function columnAt({ last }, step) {
  let low = 0, high = last.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (last[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

// -- a line of text beside the pointer --------------------------------------------------------------------------------

const reading = document.createElement("div");
reading.className = "read";
const hair = document.createElement("div");
hair.className = "hair";

function show(area, x, y, title, ...lines) {
  reading.replaceChildren();
  const head = document.createElement("b");
  head.textContent = title;
  reading.append(head, ...lines.flatMap((line, at) => (at ? [document.createElement("br"), line] : [line])));
  area.append(reading, hair);
  const wide = area.clientWidth;
  hair.style.left = `${x}px`;
  reading.style.top = `${y + 14}px`;
  reading.style.left = x < wide / 2 ? `${x + 14}px` : "";
  reading.style.right = x < wide / 2 ? "" : `${wide - x + 14}px`;
}

function hide() {
  reading.remove();
  hair.remove();
}

function within(event, element) {
  const box = element.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top, wide: box.width, high: box.height };
}

// -- curves -----------------------------------------------------------------------------------------------------------

/** The points of a curve: where each is drawn, its step and its value. */
function points(path) {
  const told = (path.dataset.told ?? "").split(" ").map(Number);
  const drawn = (path.getAttribute("d") ?? "").matchAll(/(-?[0-9.]+),(-?[0-9.]+)/g);
  return Array.from(drawn, ([, x], at) => ({ x: Number(x), step: told[2 * at], value: told[2 * at + 1] }));
}

const nearer = (x) => (kept, point) => (!kept || Math.abs(point.x - x) < Math.abs(kept.x - x) ? point : kept);

function readCurve(event, plot, area) {
  const { x, y, wide } = within(event, area), here = (x / wide) * WIDTH;
  const best = all("path.line:not(.infinite)", plot).map((path) => points(path).reduce(nearer(here), null));
  const nearest = best.filter(Boolean).reduce(nearer(here), null);
  if (!nearest) return hide();
  const names = all(".key", plot.parentElement).map((key) => key.textContent);
  const lines = best.flatMap((point, at) => {
    if (!point) return [];
    const elsewhere = point.step === nearest.step ? "" : ` at step ${thousands(point.step)}`;
    return [`${names[at] ? `${names[at]}: ` : ""}${written(point.value)}${elsewhere}`];
  });
  return show(area, (nearest.x / WIDTH) * wide, y, `step ${thousands(nearest.step)}`, ...lines);
}

for (const plot of all(".chart .plot")) {
  const area = plot.querySelector(".area");
  area.addEventListener("pointermove", (event) => readCurve(event, plot, area));
  area.addEventListener("pointerleave", hide);
}

// -- heatmaps ---------------------------------------------------------------------------------------------------------

/** Which layer and column a pointer is over: of the layers that share a row the one with the largest value. */
async function cellAt(event, figure) {
  const { optimizer, metric, each } = figure.dataset;
  const cells = data.optimizers[optimizer];
  const { y, high } = within(event, figure.querySelector(".cells"));
  const { x, wide } = within(event, figure.querySelector(".area"));
  const found = await codes(optimizer, metric);
  const rows = Math.ceil(cells.layers.length / each), columns = cells.first.length;
  const row = Math.min(Math.max(Math.floor((y / high) * rows), 0), rows - 1);
  const column = columnAt(cells, Math.floor(data.first + (x / wide) * (data.last - data.first)));
  const weight = (layer) => { const code = found[layer * columns + column]; return code === NONFINITE ? 65536 : code; };
  let layer = row * each;
  for (let other = layer; other < Math.min((row + 1) * each, cells.layers.length); other++)
    if (weight(other) > weight(layer)) layer = other;
  return { optimizer, metric, layer, column, cells };
}

async function readCell(event, figure, area) {
  const { x, y } = within(event, area);
  const { optimizer, metric, layer, column, cells } = await cellAt(event, figure);
  const values = await layerValues(optimizer, metric, layer);
  const value = values[column], middle = median(values);
  const from = cells.first[column], to = cells.last[column];
  const lines = [from === to ? `step ${thousands(to)}` : `steps ${thousands(from)} to ${thousands(to)}`, written(value)];
  if (value > 0 && Number.isFinite(value) && middle) lines[1] += ` (${written(value / middle)} times its median)`;
  show(area, x, y, cells.layers[layer] || "the model itself", ...lines);
}

for (const figure of all(".heat")) {
  const area = figure.querySelector(".area");
  let inside = false; // an answer that comes after the pointer has left is not shown
  area.addEventListener("pointermove", async (event) => { inside = true; await readCell(event, figure, area); if (!inside) hide(); });
  area.addEventListener("pointerleave", () => { inside = false; hide(); });
  area.addEventListener("click", async (event) => {
    if (event.target.closest("a")) return;
    const { optimizer, layer } = await cellAt(event, figure);
    await choose(optimizer, layer);
  });
}

// -- one layer --------------------------------------------------------------------------------------------------------

const panel = document.getElementById("layer");

/** Draw a curve into an empty chart of the page. */
function draw(chart, cells, values) {
  const plot = chart.querySelector(".plot"), finite = values.filter((value) => value > 0 && Number.isFinite(value));
  let low = Math.log10(Math.min(...finite)), high = Math.log10(Math.max(...finite));
  if (!finite.length) [low, high] = [0, 1];
  const log = high - low > 1.5;
  const air = log ? 0.06 * (high - low) : 0;
  [low, high] = log ? [10 ** (low - air), 10 ** (high + air)] : [0, 10 ** high * 1.06];
  const place = (value) => (log ? (Math.log10(value) - Math.log10(low)) / Math.log10(high / low) : (value - low) / (high - low));
  let path = "", bad = "", down = false;
  const told = [];
  values.forEach((value, at) => {
    const x = (WIDTH * (cells.last[at] - data.first)) / (data.last - data.first);
    if (value === Infinity) bad += `M${x.toFixed(0)} 0v14`;
    const y = HEIGHT * (1 - place(value));
    down = Number.isFinite(y) && (path += `${down ? " " : "M"}${x.toFixed(1)},${y.toFixed(1)}`, told.push(cells.last[at], value), true);
  });
  const svg = plot.querySelector("svg");
  const ticks = log ? decades(low, high) : rounded(high);
  const grid = ticks.map((tick) => `M0 ${HEIGHT * (1 - place(tick))}H${WIDTH}`).join("");
  all("path, line.grid[x1='0'][x2='1000']", svg).forEach((old) => old.remove());
  for (const [kind, d] of [["grid", grid], ["line s0", path], ["line infinite", bad]]) {
    const line = document.createElementNS(svg.namespaceURI, "path");
    line.setAttribute("class", kind);
    line.setAttribute("d", d);
    if (d === path) line.dataset.told = told.join(" ");
    svg.append(line);
  }
  plot.querySelector(".y").replaceChildren(...ticks.map((tick) => {
    const label = document.createElement("span");
    label.textContent = written(tick, 1);
    label.style.top = `${100 * (1 - place(tick))}%`;
    return label;
  }));
  svg.setAttribute("aria-label", finite.length ? `from ${written(Math.min(...finite))} to ${written(Math.max(...finite))}` : "no value");
}

function decades(low, high) {
  const powers = [];
  for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++) powers.push(10 ** power);
  return powers.filter((_, at) => at % Math.ceil(powers.length / 4) === 0);
}

/** A few round values from 0 to below a number. */
function rounded(high) {
  const unit = 10 ** Math.floor(Math.log10(high / 2));
  const step = unit * [5, 2, 1].find((factor) => factor * unit <= high / 2);
  return Array.from({ length: Math.floor(high / step) + 1 }, (_, at) => at * step);
}

async function choose(optimizer, layer) {
  const cells = data.optimizers[optimizer];
  panel.hidden = false;
  const title = document.getElementById("layer-name");
  title.textContent = cells.layers[layer] || "the model itself";
  for (const holder of all("[data-metric]", panel))
    draw(holder, cells, await layerValues(optimizer, holder.dataset.metric, layer));
  for (const row of all("#layer-table tr.chosen")) row.classList.remove("chosen");
  const row = document.querySelector(`#layer-table [data-layer="${layer}"][data-optimizer="${optimizer}"]`)?.closest("tr");
  row?.classList.add("chosen");
  if (row && !row.hidden) row.closest(".scroll").scrollTop = row.offsetTop - 60;
  panel.scrollIntoView({ block: "nearest" });
  title.focus({ preventScroll: true });
}

for (const name of all("#single [data-layer]")) {
  const button = document.createElement("button");
  button.textContent = name.textContent;
  button.addEventListener("click", () => choose(name.dataset.optimizer, Number(name.dataset.layer)));
  name.replaceChildren(button);
}

// -- search, links, and what the page hides without a script ----------------------------------------------------------

if (typeof DecompressionStream === "undefined") {
  // An old browser: pictures and tables say what they say, and pointing at them shows nothing.
  all("#single button").forEach((button) => button.replaceWith(button.textContent));
} else all(".scripted:not(#layer)").forEach((element) => { element.hidden = false; });

for (const field of all("[data-filters]")) {
  const rows = all("tbody tr", document.getElementById(field.dataset.filters));
  const names = rows.map((row) => row.cells[0].textContent.toLowerCase());
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    rows.forEach((row, at) => { row.hidden = !names[at].includes(wanted); });
  });
}

function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") target.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", openTarget);
openTarget();
