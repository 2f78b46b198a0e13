// Calls of the control plane's own API, with the admin key when one was given. Nothing else is ever contacted.

const KEY = "pointsman-admin-key";

export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function adminKey() {
  return sessionStorage.getItem(KEY) || "";
}

export function setAdminKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Headers with the admin key. Failure: the key cannot stand in a header. */
export function headers(extra = {}) {
  const key = adminKey();
  return key ? { ...extra, authorization: `Bearer ${key}` } : extra;
}

/** Saves what the API answers as a file: a plain link carries no key. Failure: as `call`. */
export async function save(path, name) {
  let answer;
  let body;
  try {
    answer = await fetch(path, { headers: headers(), cache: "no-store" });
    body = await answer.blob();
  } catch {
    throw new Failure("no answer", 0);
  }
  if (!answer.ok) throw new Failure(`status ${answer.status}`, answer.status);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(body);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Asks and gives the JSON answer back. Failure: refused (with its status), or nobody answered (status 0). */
export async function call(path, { method = "GET", timeout = 8000 } = {}) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), timeout);
  let answer;
  let body;
  try {
    answer = await fetch(path, { method, headers: headers(), signal: stop.signal, cache: "no-store" });
    body = await answer.text();
  } catch {
    throw new Failure("no answer", 0);
  } finally {
    clearTimeout(timer);
  }
  let parsed = null;
  try {
    parsed = JSON.parse(body);
  } catch {
    throw new Failure(`an answer that is not JSON (status ${answer.status})`, answer.status);
  }
  if (!answer.ok) throw new Failure(parsed?.error?.message || `status ${answer.status}`, answer.status);
  return parsed;
}
