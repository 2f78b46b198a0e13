// The "Try it" card: one conversation with the chosen model, streamed through the control plane.

import { headers } from "./api.js";
import { chats, selected } from "./connect.js";
import { $, className, h, number, seconds, show, text } from "./dom.js";

const IDEAS = ["Who are you?", "What is 12 + 30?", "Spell the word signal."];
const TURNS = 20; // messages kept and sent along

let talk = [];
let running = null;

export function start() {
  $("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else ask($("chat-text").value.trim());
  });
  $("chat-text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) ask($("chat-text").value.trim());
  });
  $("chat-clear").addEventListener("click", clear);
  clear();
}

export function render(snapshot) {
  const model = snapshot.models.find((m) => m.name === selected());
  const usable = Boolean(model && chats(model));
  show($("chat-key-row"), snapshot.keys_required);
  $("chat-send").disabled = !usable;
  const hint = $("chat-log").querySelector(".hint");
  if (hint) text(hint, usable ? `Ask ${model.name} something.` : "This model does not chat; choose another one.");
}

function clear() {
  if (running) running.abort();
  talk = [];
  const ideas = h("div", { class: "ideas" }, ...IDEAS.map((idea) => h("button", { type: "button", class: "quiet", click: () => ask(idea) }, idea)));
  $("chat-log").replaceChildren(h("p", { class: "hint" }, "Ask the model something."), ideas);
  text($("chat-figures"), "");
}

function say(kind, words) {
  const node = h("p", { class: kind }, words);
  for (const old of $("chat-log").querySelectorAll(".hint, .ideas")) old.remove();
  $("chat-log").append(node);
  return node;
}

async function ask(question) {
  if (!question || running || $("chat-send").disabled) return;
  $("chat-text").value = "";
  say("you", question);
  talk = [...talk, { role: "user", content: question }].slice(-TURNS);
  const bubble = say("thinking", "…");
  running = new AbortController();
  text($("chat-send"), "Stop");
  try {
    const answer = await stream(bubble, running.signal);
    talk.push({ role: "assistant", content: answer });
  } catch (error) {
    talk.pop();
    const stopped = error.name === "AbortError";
    if (stopped && bubble.className !== "thinking") bubble.append(" (stopped)");
    else {
      className(bubble, stopped ? "thinking" : "fault");
      text(bubble, stopped ? "(stopped)" : error.message);
    }
  } finally {
    running = null;
    text($("chat-send"), "Send");
  }
}

async function stream(bubble, signal) {
  const began = performance.now();
  const body = JSON.stringify({ model: selected(), messages: talk, stream: true, stream_options: { include_usage: true } });
  const extra = { "content-type": "application/json" };
  if ($("chat-key").value) extra["x-pointsman-key"] = $("chat-key").value;
  const answer = await fetch("/api/chat", { method: "POST", headers: headers(extra), body, signal });
  if (!answer.ok) throw new Error(await refusal(answer));
  const seen = { text: "", thought: "", first: 0, chunks: 0, tokens: 0 };
  for await (const event of events(answer.body)) {
    if (event.error) throw new Error(event.error.message || "The answer broke off.");
    take(event, seen, bubble);
    figures(seen, began);
  }
  if (!seen.text && !seen.thought) text(bubble, "(an empty answer)");
  return seen.text;
}

function take(event, seen, bubble) {
  if (event.usage) seen.tokens = event.usage.completion_tokens || 0;
  const delta = event.choices?.[0]?.delta;
  if (!delta) return;
  const thought = delta.reasoning_content || delta.reasoning || "";
  const words = delta.content || "";
  if (!thought && !words) return;
  seen.first ||= performance.now();
  seen.chunks += 1;
  seen.thought += thought;
  seen.text += words;
  const log = $("chat-log");
  const below = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  className(bubble, seen.text ? "" : "thinking");
  text(bubble, seen.text || seen.thought);
  if (below) log.scrollTop = log.scrollHeight;
}

function figures(seen, began) {
  if (!seen.first) return;
  const count = seen.tokens || seen.chunks;
  const took = (performance.now() - seen.first) / 1000;
  const rate = count > 1 && took > 0 ? ` · ${number((count - 1) / took)} tokens/s` : "";
  text($("chat-figures"), `first token after ${seconds((seen.first - began) / 1000)} · ${count} tokens${rate}`);
}

async function refusal(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The gateway answered with status ${answer.status}.`;
  }
}

/** The JSON of each server-sent event, until [DONE] or the end. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
