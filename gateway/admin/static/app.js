// The status page: asks for the state once a second while it is looked at, and hands it to the views.

import { Failure, adminKey, call, save, setAdminKey } from "./api.js";
import * as chat from "./chat.js";
import * as connect from "./connect.js";
import { $, className, h, show, span, text } from "./dom.js";
import * as views from "./views.js";

const TICK = 1000;
const RECENT = 50;
const EXPERIMENTS = 5; // every so many ticks they are asked about: the analysis runs every few seconds

let snapshot = null;
let version = null;
let lastSeen = 0;
let misses = 0;
let timer = null;
let requests = [];
let experiments = { list: [], problem: "" };
let untilExperiments = 0;
let note = null; // what the last action said, as a banner

async function tick() {
  clearTimeout(timer);
  try {
    const [status, finished] = await Promise.all([call("/api/status"), call(`/api/requests?limit=${RECENT}`)]);
    await askExperiments(status.experiments);
    arrived(status, finished.requests);
  } catch (error) {
    missed(error);
  }
  // A gateway that is away is asked less often, but never less than every five seconds.
  if (!document.hidden) timer = setTimeout(tick, Math.min(TICK * (1 + misses), 5000));
}

/** What is known of experiments; when that cannot be read, all else is shown as ever. */
async function askExperiments(count) {
  if (!count) experiments = { list: [], problem: "" };
  if (!count || untilExperiments-- > 0) return;
  untilExperiments = EXPERIMENTS - 1;
  try {
    experiments = { list: (await call("/api/experiments")).experiments, problem: "" };
  } catch (error) {
    experiments = { ...experiments, problem: error.message };
  }
}

function arrived(status, finished) {
  if (version !== null && version !== status.version) {
    location.reload();
    return;
  }
  [version, snapshot, requests, lastSeen, misses] = [status.version, status, finished, Date.now(), 0];
  lock(false);
  document.body.classList.remove("stale");
  live("good", "live");
  renderHead();
  renderBanners();
  connect.render(snapshot);
  chat.render(snapshot);
  views.tiles(snapshot);
  views.models(snapshot);
  views.experiments(experiments, openReport);
  views.engines(snapshot, { log: openLog, restart: confirmRestart });
  views.residents(snapshot, (name, verb) => act(`/api/residency/${encodeURIComponent(name)}/${verb}`, (e) => `${e.name} is ${e.state}.`));
  views.replicas(snapshot);
  views.inflight(snapshot);
  views.recent(requests, $("only-failed").checked, snapshot.models.length > 0);
}

function missed(error) {
  if (error instanceof Failure && error.status === 401) {
    live("", "locked");
    lock(true);
    text($("login-note"), adminKey() ? "That key is not right." : "");
    misses = 4;
    return;
  }
  misses += 1;
  // One lost answer is no news; two are.
  if (misses < 2 && snapshot) return;
  live("bad", "lost");
  document.body.classList.add("stale");
  renderBanners(error);
}

function lock(locked) {
  show($("login"), locked);
  show($("content"), !locked);
  show($("foot"), !locked);
}

function live(mood, word) {
  className($("live"), `pill ${mood}`);
  text($("live").lastChild, word);
}

function renderHead() {
  const ready = snapshot.models.filter((m) => m.state === "ready").length;
  text($("version"), snapshot.version);
  text($("summary"), snapshot.models.length ? `${ready} of ${snapshot.models.length} models ready` : "no models");
  text($("uptime"), `up ${span(snapshot.now - snapshot.started)}`);
  show($("metrics-link"), !adminKey()); // a plain link carries no key
  text($("generation"), `configuration ${snapshot.generation}`);
  document.title = ready < snapshot.models.length ? `(${ready}/${snapshot.models.length}) Pointsman` : "Pointsman";
}

function renderBanners(error = null) {
  const list = [];
  if (error) {
    const why = error.status ? error.message : "Pointsman has stopped or is restarting";
    const since = lastSeen ? ` What you see is from ${new Date(lastSeen).toLocaleTimeString([], { hour12: false })}.` : "";
    list.push({ bad: true, text: `Connection lost: ${why}. Trying again.${since}` });
  }
  if (note) list.push(note);
  for (const warning of snapshot?.warnings || []) list.push({ bad: false, text: warning });
  views.banners(list);
}

function say(words, bad = false) {
  note = { text: words, bad };
  const mine = note;
  renderBanners();
  setTimeout(() => {
    if (note === mine) note = null;
  }, 8000);
}

async function act(path, done) {
  try {
    const answer = await call(path, { method: "POST", timeout: 60000 });
    say(done(answer));
  } catch (error) {
    say(error.message, true);
  }
  tick();
}

// The dialog: a log, or a question.

let following = null;

function openDialog(heading, { words = "", small = false, log = false, actions = [] }) {
  const dialog = $("dialog");
  className(dialog, small ? "small-dialog" : "");
  text($("dialog-title"), heading);
  text($("dialog-text"), words);
  show($("dialog-text"), Boolean(words));
  show($("dialog-log"), log);
  $("dialog-actions").replaceChildren(...actions);
  if (!dialog.open) dialog.showModal();
}

function openLog(name) {
  text($("dialog-log"), "…");
  openDialog(`Log of ${name}`, { log: true });
  const again = async () => {
    const box = $("dialog-log");
    const below = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    try {
      const { lines } = await call(`/api/engines/${encodeURIComponent(name)}/log?lines=500`);
      text(box, lines.length ? lines.join("\n") : "This engine has written nothing yet.");
    } catch (error) {
      text(box, `The log cannot be read: ${error.message}.`);
    }
    if (below) box.scrollTop = box.scrollHeight;
    if ($("dialog").open) following = setTimeout(again, 2000);
  };
  again();
}

/** Without an admin key a plain link does; with one the report is fetched and saved. */
async function openReport(event, path, name) {
  if (!adminKey()) return;
  event.preventDefault();
  try {
    await save(path, `${name}.html`);
    say(`The report of ${name} was saved.`);
  } catch (error) {
    say(`The report cannot be read: ${error.message}.`, true);
  }
}

function confirmRestart(name) {
  const close = () => $("dialog").close();
  const go = () => {
    close();
    act(`/api/engines/${encodeURIComponent(name)}/restart`, (answer) => answer.message);
  };
  openDialog(`Restart ${name}?`, {
    small: true,
    words: "Answers that it is writing now will break off. Other engines go on.",
    actions: [h("button", { type: "button", autofocus: true, click: close }, "Cancel"), h("button", { type: "button", class: "primary", click: go }, "Restart")],
  });
}

function start() {
  connect.start();
  chat.start();
  $("dialog-close").addEventListener("click", () => $("dialog").close());
  $("dialog").addEventListener("close", () => clearTimeout(following));
  $("only-failed").addEventListener("change", () => views.recent(requests, $("only-failed").checked, Boolean(snapshot?.models.length)));
  $("reload").addEventListener("click", () => act("/api/reload", (answer) => answer.message || "The configuration was read again."));
  $("login").addEventListener("submit", (event) => {
    event.preventDefault();
    setAdminKey($("admin-key").value.trim());
    $("admin-key").value = "";
    tick();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) tick();
  });
  tick();
}

start();
