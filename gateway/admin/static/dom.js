// Small helpers: everything that comes from outside is set as text, never as markup.

export const $ = (id) => document.getElementById(id);

/** A new element: h("td", {class: "num"}, "text", child). */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Sets a node's text only when it changed, so that a selection in it survives the next tick. */
export function text(node, value) {
  const wanted = value === null || value === undefined ? "" : String(value);
  if (node.textContent !== wanted) node.textContent = wanted;
  return node;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

export function className(node, name) {
  if (node.className !== name) node.className = name;
}

export function title(node, value) {
  if (node.title !== value) node.title = value;
}

/** Makes a parent's children match `items`, keeping the nodes (and focus) of those that stay. */
export function sync(parent, items, key, make, update) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let node = old.get(id);
    if (node) old.delete(id);
    else {
      node = make(item);
      node.dataset.key = id;
    }
    update(node, item);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}

/** A table row with one cell for each class, kept in `row.cells`. */
export function row(...classes) {
  return h("tr", {}, ...classes.map((name) => h("td", name ? { class: name } : {})));
}

const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const none = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) < 1) return few.format(value);
  return Math.abs(value) < 100 ? one.format(value) : none.format(value);
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.00095) return "<1 ms";
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 99.5) return `${value.toFixed(value < 9.95 ? 2 : 1)} s`;
  return span(value);
}

export function span(value) {
  const whole = Math.max(0, Math.floor(value));
  const [d, hours, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (d) return `${d} d ${hours} h`;
  if (hours) return `${hours} h ${m} min`;
  return m ? `${m} min ${s} s` : `${s} s`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 2 ** 30) return `${(value / 2 ** 30).toFixed(1)} GiB`;
  return `${Math.round(value / 2 ** 20)} MiB`;
}

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString([], { hour12: false });
}

const STATES = {
  good: ["ready", "up", "running", "loaded", "serving", "healthy", "streaming", "ok"],
  warn: ["loading", "starting", "partial", "waiting", "prefill", "draining", "restarting", "probing", "resting", "degraded", "backoff", "stopping", "unloading"],
};

/** "good", "warn", "bad" or "" for a state's word. */
export function tone(state) {
  const word = String(state).toLowerCase();
  if (STATES.good.includes(word)) return "good";
  if (STATES.warn.includes(word)) return "warn";
  return word === "stopped" || word === "unloaded" || word === "unknown" || word === "" ? "" : "bad";
}

/** Shows a state as a dot and its word in `cell`. */
export function state(cell, word) {
  let mark = cell.querySelector(":scope > .state");
  if (!mark) {
    mark = h("span", {}, h("i", { class: "dot" }), h("b"));
    cell.prepend(mark);
  }
  className(mark, `state ${tone(word)}`);
  text(mark.lastChild, word);
}

/** Copies text; works without a secure context too. Says so on the button. */
export async function copy(value, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(value);
  } catch {
    const box = h("textarea", { readonly: true });
    box.value = value;
    document.body.append(box);
    box.select();
    done = document.execCommand("copy");
    box.remove();
    button.focus();
  }
  text(button, done ? "Copied" : "Press Ctrl-C");
  setTimeout(() => text(button, "Copy"), 1500);
}
