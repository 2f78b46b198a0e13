// The API's document, read from openapi.json and shown without any other site's help.

import { call, headers } from "./api.js";
import { $, h, show, text } from "./dom.js";

function resolve(schema, all, seen = new Set()) {
  const name = schema?.$ref?.split("/").pop();
  if (name) return seen.has(name) ? {} : resolve(all[name] || {}, all, new Set([...seen, name]));
  return [schema || {}, seen];
}

/** An example of a schema's shape, for people. */
function example(schema, all, seen = new Set()) {
  const found = resolve(schema, all, seen);
  if (!Array.isArray(found)) return {};
  const [part, inside] = found;
  if (part.anyOf) return example(part.anyOf[0], all, inside);
  if (part.enum) return part.enum.join(" | ");
  if (part.properties) return Object.fromEntries(Object.entries(part.properties).map(([key, value]) => [key, example(value, all, inside)]));
  if (part.type === "array") return [example(part.items, all, inside)];
  return { string: "string", integer: 0, number: 0.5, boolean: true, null: null }[part.type] ?? {};
}

function operation(path, method, about, all) {
  const inputs = (about.parameters || []).map((p) => ({ ...p, box: h("input", { "aria-label": p.name, placeholder: p.name, value: p.schema?.default ?? null }) }));
  const output = h("pre", { tabindex: "0", hidden: true });
  const answer = Object.values(about.responses)[0]?.content?.["application/json"]?.schema;
  const run = h("button", { type: "button", class: "primary", click: () => send(path, method, inputs, output) }, method === "POST" ? "Send it" : "Get it");
  const note = about.parameters?.map((p) => `${p.name}${p.required ? "" : " (optional)"}: ${p.description || p.schema?.type || ""}`).join("\n");
  return h("details", { class: "card" },
    h("summary", {}, h("span", { class: `method ${method}` }, method), h("code", {}, path), h("span", { class: "muted" }, about.summary || "")),
    ...(note ? [h("h3", {}, "Parameters"), h("pre", {}, note)] : []),
    ...(answer ? [h("h3", {}, "Answer"), h("pre", { tabindex: "0" }, JSON.stringify(example(answer, all), null, 2))] : []),
    ...(path === "/api/chat" ? [] : [h("div", { class: "try-row" }, ...inputs.map((i) => i.box), run), output]));
}

async function send(path, method, inputs, output) {
  let url = path;
  const query = new URLSearchParams();
  for (const input of inputs) {
    const value = input.box.value.trim();
    if (input.in === "path") url = url.replace(new RegExp(`\\{${input.name}(:path)?\\}`), encodeURIComponent(value));
    else if (value) query.set(input.name, value);
  }
  const answer = await fetch(query.size ? `${url}?${query}` : url, { method, headers: headers() });
  const body = await answer.text();
  let shown = body;
  try {
    shown = JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    // Prometheus text is shown as it came.
  }
  text(output, `${answer.status}\n${shown.slice(0, 200000)}`);
  show(output, true);
}

async function start() {
  try {
    const document_ = await call("/openapi.json");
    text($("title"), document_.info.title);
    text($("version"), document_.info.version);
    text($("about"), document_.info.description);
    const all = document_.components?.schemas || {};
    for (const [path, methods] of Object.entries(document_.paths)) {
      for (const [method, about] of Object.entries(methods)) $("operations").append(operation(path, method.toUpperCase(), about, all));
    }
  } catch (error) {
    text($("failed"), error.status === 401 ? "Give the admin key on the status page first, then come back." : `The API document cannot be read: ${error.message}.`);
    show($("failed"), true);
  }
}

start();
