// The tables and cards: each function takes a part of the snapshot and brings its part of the page up to date.

import { draw, spark } from "./chart.js";
import { $, bytes, className, clock, h, number, row, seconds, show, span, state, sync, text, title, tone } from "./dom.js";

const START = {
  model: "pointsman serve --model hf:Qwen/Qwen3-0.6B-GGUF:Q8_0",
  upstream: "pointsman serve --upstream http://127.0.0.1:8000/v1",
};

function empty(node, visible, words, ...commands) {
  show(node, visible);
  if (visible && !node.firstChild) node.append(words, ...commands.map((command) => h("code", {}, command)));
}

export function banners(list) {
  sync($("banners"), list, (b) => b.text, (b) => h("p", { class: `banner ${b.bad ? "bad" : ""}` }), (node, b) => text(node, b.text));
}

const TILES = [
  ["Requests per second", ["", "bad"], (t) => [number(t.total.rps), t.total.errors ? ` · ${number(t.total.errors)} failed` : ""], (x) => [x.rps, x.errors], number],
  ["Time to first token", ["", "second"], (t) => [seconds(t.total.ttft_p50), ` p50 · ${seconds(t.total.ttft_p95)} p95`], (x) => [x.ttft_p50, x.ttft_p95], seconds],
  ["Output tokens per second", [""], (t) => [number(t.total.tokens_per_second), ""], (x) => [x.tokens_per_second], number],
];

const FLIGHTS = 300; // the page's own record, one a second
let flights = Array(FLIGHTS).fill(null);

export function tiles(snapshot) {
  const { traffic } = snapshot;
  flights = [...flights, snapshot.inflight_total].slice(-FLIGHTS);
  const items = [
    ...TILES.map(([name, lines, value, series, unit]) => ({ name, lines, value: value(traffic), series: series(traffic.history), unit, since: "5 min" })),
    { name: "In flight now", lines: [""], value: [number(snapshot.inflight_total), ""], series: [flights], unit: number, since: "5 min", live: true },
  ];
  sync($("tiles"), items, (t) => t.name, makeTile, updateTile);
}

function makeTile(tile) {
  const note = tile.live ? "" : "last minute";
  return h("div", { class: "tile" }, h("h3", {}, tile.name, h("span", { class: "mid" }, note)), h("div", { class: "value" }, h("span"), h("small")), spark(tile.lines),
    h("footer", {}, h("span", {}, "5 min ago"), h("span")));
}

function updateTile(node, tile) {
  const [value, small] = node.querySelector(".value").children;
  text(value, tile.value[0]);
  text(small, tile.value[1]);
  const top = draw(node.querySelector("svg"), tile.series);
  text(node.querySelector("footer").lastChild, top ? `max ${tile.unit(top)}` : "");
}

export function models(snapshot) {
  const list = snapshot.models;
  const figures = new Map(snapshot.traffic.routes.map((r) => [r.route, r]));
  text($("models-note"), list.length ? `${list.filter((m) => m.state === "ready").length} of ${list.length} ready` : "");
  show($("models").parentNode, list.length > 0);
  empty($("models-empty"), !list.length, "Nothing is served yet. Start with a model of your own, or put a server that speaks the OpenAI API behind:", START.model, START.upstream);
  sync($("models"), list, (m) => m.name, makeModel, (node, m) => updateModel(node, m, figures.get(m.name)));
}

function makeModel() {
  const node = row("", "", "wide", "num wide", "num", "num mid", "num mid", "wide");
  node.cells[0].append(h("strong"), h("span", { class: "sub" }));
  node.cells[7].append(spark([""]));
  return node;
}

function updateModel(node, model, figures) {
  const cells = node.cells;
  text(cells[0].firstChild, model.name);
  title(cells[0], model.name);
  text(cells[0].lastChild, model.reason || model.api.join(", "));
  className(cells[0].lastChild, model.reason && tone(model.state) === "bad" ? "sub bad-text" : "sub");
  state(cells[1], model.state);
  const targets = model.targets.map((t) => `${t.backend} → ${t.model}${model.targets.length > 1 ? ` (${number(share(t, model.targets))} %)` : ""}`);
  sync(cells[2], targets, (t) => t, () => h("span", { class: "sub" }), text);
  title(cells[2], targets.join("\n"));
  text(cells[3], model.context ? number(model.context) : "–");
  text(cells[4], figures ? number(figures.rps) : "0");
  text(cells[5], figures ? seconds(figures.ttft_p50) : "–");
  text(cells[6], figures ? number(figures.tokens_per_second) : "0");
  draw(cells[7].firstChild, [figures ? figures.rates : [0, 0]]);
}

function share(target, all) {
  const sum = all.reduce((total, t) => total + t.weight, 0);
  return sum ? (100 * target.weight) / sum : 0;
}

const MOODS = { running: "good", promoted: "good", rolled_back: "warn" };

/** `report`: what a click on a report's link does instead, when a plain link would not do. */
export function experiments({ list, problem }, report) {
  show($("experiments-card"), list.length > 0 || Boolean(problem));
  text($("experiments-note"), problem || `${list.filter((e) => e.status === "running").length} of ${list.length} running`);
  className($("experiments-note"), problem ? "bad-text small" : "muted small");
  sync($("experiments"), list, (e) => e.name, (e) => makeExperiment(e, report), updateExperiment);
}

function makeExperiment(experiment, report) {
  const node = row("", "", "num mid", "num wide", "wide", "");
  const href = `/api/experiments/${encodeURIComponent(experiment.name)}/report`;
  node.cells[0].append(h("strong"), h("span", { class: "sub" }), h("span", { class: "sub wrap narrow" }));
  node.cells[4].append(h("span", { class: "clamp" }));
  node.cells[5].append(h("a", { href, target: "_blank", rel: "noopener", "aria-label": `Report of ${experiment.name}`, click: (event) => report(event, href, experiment.name) }, "Open"));
  return node;
}

function updateExperiment(node, e) {
  const cells = node.cells;
  const known = e.trusted ? e.headline : `Do not trust this yet: ${e.headline}`;
  text(cells[0].firstChild, e.name);
  text(cells[0].children[1], e.winner ? `${e.route} → ${e.winner}` : e.route);
  text(cells[0].lastChild, known);
  title(cells[0], e.name);
  state(cells[1], e.status.replace("_", " "));
  className(cells[1].firstChild, `state ${e.trusted ? MOODS[e.status] || "" : "bad"}`);
  text(cells[2], number(e.units));
  text(cells[3], number(e.requests));
  title(text(cells[4].firstChild, known), known);
}

export function engines(snapshot, actions) {
  const list = snapshot.engines;
  text($("engines-note"), list.length ? `${list.filter((e) => tone(e.state) === "good").length} of ${list.length} running` : "");
  show($("engines-card"), list.length > 0 || snapshot.models.length > 0);
  empty($("engines-empty"), !list.length, "No engine runs on this machine; requests go to remote servers only. To run a model here:", START.model);
  sync($("engines"), list, (e) => e.name, (e) => makeEngine(e, actions), (node, e) => updateEngine(node, e, snapshot.now));
}

function makeEngine(engine, actions) {
  const fact = (name) => h("div", {}, h("dt", {}, name), h("dd"));
  return h("article", { class: "engine", "aria-label": `Engine ${engine.name}` },
    h("div", { class: "title" }, h("strong"), h("span")),
    h("div", { class: "model" }), h("progress", { max: "1", "aria-label": `${engine.name} is loading` }), h("div", { class: "reason" }),
    h("dl", {}, fact("Kind"), fact("Memory"), fact("Slots"), fact("Restarts"), fact("Since"), fact("Process"), fact("Limit"), fact("Address")),
    h("div", { class: "row" },
      h("button", { type: "button", class: "quiet", click: () => actions.log(engine.name) }, "Log"),
      h("button", { type: "button", class: "quiet", click: () => actions.restart(engine.name) }, "Restart")));
}

function updateEngine(node, engine, now) {
  const mood = tone(engine.state);
  className(node, `engine ${mood === "bad" ? "bad" : ""}`.trim());
  const [head, model, bar, reason, facts] = node.children;
  text(head.firstChild, engine.name);
  state(head.lastChild, engine.state);
  text(model, engine.model);
  title(model, engine.model);
  show(bar, mood === "warn");
  if (engine.progress === null) bar.removeAttribute("value");
  else bar.value = engine.progress;
  text(reason, engine.reason || (mood === "warn" && engine.progress !== null ? `${Math.round(engine.progress * 100)} %` : ""));
  const values = [engine.kind || "–", bytes(engine.rss_bytes), engine.slots ?? "–", engine.restarts, engine.since ? span(now - engine.since) : "–",
    engine.pid ?? "–", engine.memory ? bytes(engine.memory) : "none", host(engine.base_url)];
  values.forEach((value, i) => title(text(facts.children[i].lastChild, value), String(value)));
}

/** Engines that come and go as they are needed; `act(name, verb)` loads or unloads one. */
export function residents(snapshot, act) {
  const { budget, set_aside: aside, engines: all } = snapshot.residency;
  const list = all.filter((e) => !e.always);
  show($("residents-card"), list.length > 0);
  text($("residents-note"), `${bytes(aside)} set aside${budget === null ? "" : ` of ${bytes(budget)}`}`);
  sync($("residents"), list, (e) => e.name, (e) => makeResident(e, act), updateResident);
}

function makeResident(engine, act) {
  const node = row("", "", "num", "num wide", "num mid", "");
  node.cells[0].append(h("strong"), h("span", { class: "sub" }));
  const verb = () => (["loaded", "loading", "waiting"].includes(node.dataset.state) ? "unload" : "load");
  node.cells[5].append(h("button", { type: "button", class: "quiet", click: () => act(engine.name, verb()) }));
  return node;
}

function updateResident(node, e) {
  const cells = node.cells;
  node.dataset.state = e.state;
  text(cells[0].firstChild, e.name);
  title(text(cells[0].lastChild, e.reason || (e.pinned ? "pinned" : "")), e.reason);
  state(cells[1], e.state);
  text(cells[2], bytes(e.held || e.bytes));
  text(cells[3], e.unload_in === null ? "–" : span(e.unload_in));
  text(cells[4], e.waiting ? `${e.busy} +${e.waiting}` : number(e.busy));
  text(cells[5].firstChild, ["loaded", "loading", "waiting"].includes(e.state) ? "Unload" : "Load");
}

export function replicas(snapshot) {
  show($("replicas-card"), snapshot.replicas.length > 0);
  sync($("replicas"), snapshot.replicas, (r) => `${r.backend} ${r.name}`, makeReplica, (node, r) => {
    text(node.cells[0].firstChild, r.name);
    title(node.cells[0], r.name);
    text(node.cells[0].lastChild, r.reason || r.backend);
    className(node.cells[0].lastChild, r.reason && tone(r.state) === "bad" ? "sub bad-text" : "sub");
    state(node.cells[1], r.state);
    title(text(node.cells[2], host(r.url)), r.url);
    [r.inflight, r.total, r.failures].forEach((value, i) => text(node.cells[3 + i], number(value)));
    className(node.cells[5], r.failures ? "num mid bad-text" : "num mid");
  });
}

function makeReplica() {
  const node = row("", "", "wide mono", "num", "num mid", "num mid");
  node.cells[0].append(h("span"), h("span", { class: "sub" }));
  return node;
}

export function inflight(snapshot) {
  const list = snapshot.inflight;
  text($("inflight-note"), snapshot.inflight_total > list.length ? `${number(snapshot.inflight_total)} in all, the first ${list.length} shown` : `${list.length}`);
  empty($("inflight-empty"), !list.length, "Nothing is being answered right now.");
  sync($("inflight"), list, (r) => r.id, () => row("", "", "wide", "mid", "num", "num mid", "num", "num wide"), (node, r) => {
    const rate = r.ttft !== null && r.age - r.ttft > 0.2 && r.chunks > 1 ? (r.chunks - 1) / (r.age - r.ttft) : null;
    title(text(node.cells[0], r.route), `${r.route} · ${r.api} · ${r.id}`);
    state(node.cells[1], r.state);
    title(text(node.cells[2], host(r.replica)), r.replica);
    text(node.cells[3], r.tenant || "–");
    [seconds(r.age), seconds(r.ttft), r.stream ? number(rate) : "–", number(r.chunks)].forEach((value, i) => text(node.cells[4 + i], value));
  });
}

/** A server's address without what is always the same. */
function host(url) {
  return url.replace(/^https?:\/\//, "").replace(/\/v1\/?$/, "") || "–";
}

const WHO = { client: "the client", gateway: "Pointsman", backend: "the server" };

export function recent(list, onlyFailed, served = true) {
  const wanted = onlyFailed ? list.filter((r) => r.fault || r.status >= 400) : list;
  const node = $("recent-empty");
  show(node, !wanted.length);
  if (!wanted.length) text(node, onlyFailed ? "None of the last requests failed." : `No requests yet.${served ? " Paste the curl line above into a terminal, or ask something under “Try it”." : ""}`);
  sync($("recent"), wanted, (r) => r.id, () => {
    const made = row("mono", "", "", "wide", "num mid", "num", "num mid", "wide");
    made.cells[2].append(h("span"));
    made.cells[7].append(h("span", { class: "clamp" }));
    made.cells[1].append(h("span"), h("span", { class: "sub" }), h("span", { class: "sub bad-text narrow" }));
    return made;
  }, updateRecent);
}

function updateRecent(node, r) {
  const cells = node.cells;
  const left = r.status === 499;
  const why = left ? "the client left before the answer was whole" : r.fault ? `${WHO[r.origin] || r.origin}: ${r.message || r.fault}` : "";
  text(cells[0], clock(r.unix));
  text(cells[1].firstChild, r.route || "–");
  text(cells[1].children[1], `${r.api}${r.stream ? ", stream" : ""}${r.attempts > 1 ? `, ${r.attempts} attempts` : ""}`);
  text(cells[1].lastChild, left ? "" : why);
  title(cells[1], `${r.route}\n${r.id}${r.tenant ? `\n${r.tenant}` : ""}${why ? `\n${why}` : ""}`);
  state(cells[2], left ? "left" : r.status < 400 ? "ok" : String(r.status));
  className(cells[2].firstChild, `state ${left ? "" : r.status < 400 ? (r.fault ? "bad" : "good") : "bad"}`);
  title(text(cells[3], host(r.replica)), r.replica);
  text(cells[4], seconds(r.ttft));
  text(cells[5], seconds(r.duration));
  const u = r.usage;
  text(cells[6], u ? `${number(u.input + u.cached + u.cache_write)} / ${number(u.output + u.reasoning)}` : "–");
  title(text(cells[7].firstChild, why), why);
}
