// TensorBoard around us: its address, its dark mode, its Reload button. All of it may be out of reach (a notebook that
// shows the tab from another origin): then the page stands on its own.

/** Return the window of TensorBoard, or our own where that one is out of reach. */
function outer() {
  try {
    return window.parent.document ? window.parent : window;
  } catch {
    return window;
  }
}

/** Return the part of the address that holds the view. */
export function addressHash() {
  return outer().location.hash;
}

/** Replace that part, without a new entry in the browser's history. */
export function setAddressHash(hash) {
  const target = outer();
  if (target.location.hash === hash) return;
  target.history.replaceState(target.history.state, "", hash);
}

/** Call `changed` whenever the reader walks in the browser's history or pastes another address. */
export function onAddress(changed) {
  outer().addEventListener("hashchange", changed);
}

/** Keep the class `dark` of our page as TensorBoard's `dark-mode` is, and call `changed` after each change. */
export function followDarkMode(changed) {
  const target = outer();
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (target === window ? asked.matches : target.document.body.classList.contains("dark-mode"));
  const apply = () => {
    document.documentElement.classList.toggle("dark", dark());
    changed();
  };
  document.documentElement.classList.toggle("dark", dark());
  asked.addEventListener("change", apply);
  if (target !== window) {
    new MutationObserver(apply).observe(target.document.body, { attributes: true, attributeFilter: ["class"] });
  }
}

/** Return whether the page is dark at the moment. */
export function isDark() {
  return document.documentElement.classList.contains("dark");
}

/**
 * Call `reloaded` when TensorBoard has loaded data anew: after a click on Reload, and after each automatic reload.
 *
 * TensorBoard tells its plugins through a port that the plugin hands it (its `plugin_util/plugin_host_ipc.ts`).
 */
export function onReload(reloaded) {
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) => {
    const message = parsed(data);
    if (message?.type !== "experimental.DataReloaded" || message.isReply) return;
    reloaded();
    channel.port1.postMessage(
      JSON.stringify({ type: message.type, id: message.id, payload: null, error: null, isReply: true }),
    );
  };
  if (window.parent !== window) window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}
