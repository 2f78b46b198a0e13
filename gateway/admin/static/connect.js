// The "Connect" card: the address, and code to paste.

import { $, copy, h, show, sync, text } from "./dom.js";

const LANGUAGES = ["curl", "python", "node"];
let language = "curl";
let current = null;

export function selected() {
  return $("model").value;
}

export function start() {
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", () => copy($(button.dataset.copy).textContent, button));
  }
  for (const name of LANGUAGES) {
    const tab = $(`tab-${name}`);
    tab.addEventListener("click", () => choose(name));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      choose(LANGUAGES[(LANGUAGES.indexOf(name) + step + LANGUAGES.length) % LANGUAGES.length]);
      $(`tab-${language}`).focus();
    });
  }
  $("model").addEventListener("change", () => render(current));
  choose("curl");
}

function choose(name) {
  language = name;
  for (const other of LANGUAGES) {
    $(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    $(`tab-${other}`).tabIndex = other === name ? 0 : -1;
  }
  $("snippet-box").setAttribute("aria-labelledby", `tab-${name}`);
  if (current) render(current);
}

export function render(snapshot) {
  current = snapshot;
  const names = snapshot.models.map((m) => m.name);
  const before = $("model").value;
  sync($("model"), names, (n) => n, (n) => h("option", { value: n }, n), () => {});
  if (!names.includes(before)) $("model").value = (snapshot.models.find((m) => m.state === "ready" && chats(m)) || snapshot.models[0])?.name || "";
  show($("start"), names.length > 0);
  text($("base-url"), snapshot.base_url);
  text($("key-note"), snapshot.keys_required ? "Clients need an API key." : "No API key is needed from this machine.");
  const model = snapshot.models.find((m) => m.name === $("model").value);
  if (model) text($("snippet"), snippet(snapshot, model));
}

export function chats(model) {
  return !model.api.length || model.api.some((name) => name.includes("chat"));
}

const python = (value) => JSON.stringify(value);
const shell = (value) => value.replaceAll("'", "'\\''");

function snippet(snapshot, model) {
  const embeds = !chats(model) && model.api.some((name) => name.includes("embed"));
  const write = { curl: embeds ? curlEmbed : curlChat, python: embeds ? pythonEmbed : pythonChat, node: embeds ? nodeEmbed : nodeChat }[language];
  return write(snapshot.base_url, model.name, snapshot.keys_required);
}

function curl(url, keyed, body) {
  const key = keyed ? ' \\\n  -H "Authorization: Bearer $POINTSMAN_KEY"' : "";
  return `curl ${url} \\\n  -H "Content-Type: application/json"${key} \\\n  -d '${shell(body)}'`;
}

function curlChat(base, name, keyed) {
  return curl(`${base}/chat/completions`, keyed, `{\n    "model": ${JSON.stringify(name)},\n    "messages": [{"role": "user", "content": "Hello!"}]\n  }`);
}

function curlEmbed(base, name, keyed) {
  return curl(`${base}/embeddings`, keyed, `{"model": ${JSON.stringify(name)}, "input": "Hello!"}`);
}

function pythonClient(base, keyed) {
  const head = keyed ? "import os\nfrom openai import OpenAI" : "from openai import OpenAI";
  return `${head}\n\nclient = OpenAI(base_url=${python(base)}, api_key=${keyed ? 'os.environ["POINTSMAN_KEY"]' : '"none"'})\n`;
}

function pythonChat(base, name, keyed) {
  return `${pythonClient(base, keyed)}answer = client.chat.completions.create(
    model=${python(name)},
    messages=[{"role": "user", "content": "Hello!"}],
)
print(answer.choices[0].message.content)`;
}

function pythonEmbed(base, name, keyed) {
  return `${pythonClient(base, keyed)}answer = client.embeddings.create(model=${python(name)}, input="Hello!")
print(len(answer.data[0].embedding))`;
}

function nodeClient(base, keyed) {
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: ${keyed ? "process.env.POINTSMAN_KEY" : '"none"'} });\n`;
}

function nodeChat(base, name, keyed) {
  return `${nodeClient(base, keyed)}const answer = await client.chat.completions.create({
  model: ${JSON.stringify(name)},
  messages: [{ role: "user", content: "Hello!" }],
});
console.log(answer.choices[0].message.content);`;
}

function nodeEmbed(base, name, keyed) {
  return `${nodeClient(base, keyed)}const answer = await client.embeddings.create({ model: ${JSON.stringify(name)}, input: "Hello!" });
console.log(answer.data[0].embedding.length);`;
}
