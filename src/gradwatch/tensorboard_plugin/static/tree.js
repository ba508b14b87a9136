// Layers in model order, as a tree of modules that folds.

/**
 * A module, or a layer where it has no `children`.
 *
 * @typedef {{path: string, label: string, depth: number, start: number, end: number, children: Node[]}} Node
 * `start` and `end` (exclusive) are the layers below it, by index.
 */

/** Return the modules and layers at the top of the tree of `names`, which are in model order. */
export function layerTree(names) {
  const parts = names.map((name) => name.split("."));
  return branches(names, parts, 0, names.length, 0, 0);
}

function branches(names, parts, start, end, level, depth) {
  const found = [];
  for (let from = start; from < end; ) {
    let to = from + 1;
    while (to < end && parts[from].length > level && parts[to][level] === parts[from][level]) to += 1;
    found.push(branch(names, parts, from, to, level, depth));
    from = to;
  }
  return found;
}

/** Return one node; a module with nothing but one module inside is written as one: `model.encoder`. */
function branch(names, parts, start, end, level, depth) {
  if (end - start === 1) {
    return { path: names[start], label: parts[start].slice(level).join("."), depth, start, end, children: [] };
  }
  let deep = level + 1;
  const same = (at) => parts.slice(start, end).every((part) => part.length > at + 1 && part[at] === parts[start][at]);
  while (same(deep)) deep += 1;
  const path = parts[start].slice(0, deep).join(".");
  const label = parts[start].slice(level, deep).join(".");
  return { path, label, depth, start, end, children: branches(names, parts, start, end, deep, depth + 1) };
}

/** Return all modules of a tree: those that can be folded. */
export function modules(nodes) {
  return nodes.flatMap((node) => (node.children.length ? [node, ...modules(node.children)] : []));
}

/** Return the paths of the modules to fold so that modules `depth` levels below the top are the innermost seen. */
export function foldedAt(nodes, depth) {
  return [
    ...new Set(
      modules(nodes)
        .filter((node) => node.depth === depth)
        .map((node) => node.path),
    ),
  ];
}

/** Return how many levels of modules a tree has. */
export function levels(nodes) {
  return modules(nodes).reduce((most, node) => Math.max(most, node.depth + 1), 0);
}

/**
 * Return the rows to draw, and the modules that are unfolded around them.
 *
 * @param {Set<string>} folded paths of folded modules; one row stands for all layers of such a module.
 * @param {(name: string) => boolean} wanted which layers pass the filter.
 * @returns {{rows: {name: string, members: number[], folded: boolean}[],
 *            spans: {path: string, label: string, depth: number, from: number, to: number}[]}}
 */
export function visibleRows(nodes, names, folded, wanted) {
  const [rows, spans] = [[], []];
  const visit = (node) => {
    const members = [];
    for (let index = node.start; index < node.end; index += 1) if (wanted(names[index])) members.push(index);
    if (!members.length) return;
    const { path, label, depth } = node;
    if (!node.children.length || folded.has(path)) {
      rows.push({ name: path, members, folded: node.children.length > 0 });
      return;
    }
    const span = { path, label, depth, from: rows.length, to: 0 };
    spans.push(span);
    node.children.forEach(visit);
    span.to = rows.length;
  };
  nodes.forEach(visit);
  return { rows, spans };
}

/**
 * Return what a filter lets pass, and what is wrong with it: a text that is no regular expression is searched as it is.
 */
export function layerFilter(text) {
  if (!text) return { wanted: () => true, problem: null };
  try {
    const pattern = new RegExp(text, "i");
    return { wanted: (name) => pattern.test(name), problem: null };
  } catch (error) {
    const wanted = (name) => name.toLowerCase().includes(text.toLowerCase());
    const reason = String(error.message)
      .replace(/^Invalid regular expression:\s*/, "")
      .replace(/^.*:\s*/, "");
    return { wanted, problem: `Not a regular expression (${reason.toLowerCase()}): searched as plain text.` };
  }
}
