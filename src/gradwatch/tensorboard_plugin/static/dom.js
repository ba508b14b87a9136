// Elements of the page. What comes from models, files and messages is only ever text: nothing here parses markup.

const ACTS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;
export const HALF_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Return `text` with each character that acts instead of showing (reversed text, escapes) replaced by a mark. */
export function plain(text) {
  return String(text ?? "")
    .replace(ACTS, "\ufffd")
    .replace(HALF_SURROGATE, "\ufffd");
}

/** Return `text` in one line of at most `limit` characters, cut in the middle: both ends of a path say something. */
export function short(text, limit) {
  const whole = plain(text).replace(/\s+/g, " ");
  if (whole.length <= limit) return whole;
  const end = Math.floor((limit - 1) / 2);
  return `${whole.slice(0, limit - 1 - end)}…${whole.slice(whole.length - end)}`;
}

/**
 * Return a new element.
 *
 * @param {string} tag its name, with classes after points: "button.quiet".
 * @param {object} given attributes; `on` has listeners by event, `style` CSS properties; null and false leave one out.
 * @param {...(Node|string|number|null|Array)} children text stays text.
 */
export function element(tag, given = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(given)) setAttribute(made, key, value);
  append(made, children);
  return made;
}

function setAttribute(made, key, value) {
  if (value === null || value === undefined || value === false) return;
  if (key === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
  else if (key === "style")
    for (const [property, part] of Object.entries(value)) made.style.setProperty(property, part);
  else made.setAttribute(key, value === true ? "" : plain(value));
}

function append(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : plain(child));
  }
}

/** Put `children` in place of all that `parent` holds; the focus stays on what has the same `data-key`. */
export function replace(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren();
  append(parent, children);
  if (focused === undefined) return;
  const again = [...parent.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused);
  again?.focus({ preventScroll: true });
}

/** Return a button that looks as quiet as text until it is pointed at. */
export function button(label, action, given = {}) {
  return element("button", { type: "button", on: { click: action }, ...given }, label);
}
