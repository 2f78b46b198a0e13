"""Clients of a route that has an experiment: they ask, judge the answers, tell the gateway, and keep a tally of their own."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.experiments.questions import question, right

NAME, METRIC = "arms", "correct"


class Tally:
    """What the clients saw: by user the backends that answered, by backend answers, right ones and users. One lock, many threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.backends: dict[str, set[str]] = defaultdict(set)
        self.asked: dict[str, int] = defaultdict(int)
        self.right: dict[str, int] = defaultdict(int)
        self.users: dict[str, set[str]] = defaultdict(set)
        self.failed: list[str] = []

    def add(self, user: str, backend: str, good: bool) -> None:
        """One answer."""
        with self.lock:
            self.backends[user].add(backend)
            self.users[backend].add(user)
            self.asked[backend] += 1
            self.right[backend] += good

    def fail(self, why: str) -> None:
        """One call that went wrong."""
        with self.lock:
            self.failed.append(why[:300])

    @property
    def moved(self) -> list[str]:
        """Users that were answered by more than one backend."""
        return sorted(user for user, seen in self.backends.items() if len(seen) > 1)


def ask(port: int, model: str, count: int, users: int, threads: int, seed: int, tally: Tally) -> None:
    """So many questions of so many users, in turns, each judged and told. Blocks until all are over."""
    left = iter(range(count))
    lock = threading.Lock()

    def client(number: int) -> None:
        rng, connection = random.Random(f"{seed} {number}"), http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            while True:
                with lock:
                    turn = next(left, None)
                if turn is None:
                    return
                try:
                    _one(connection, model, f"user-{turn % users}", rng, tally)
                except (OSError, http.client.HTTPException, ValueError, LookupError) as e:
                    tally.fail(f"{type(e).__name__}: {e}")
                    connection.close()
        finally:
            connection.close()

    workers = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _one(connection: http.client.HTTPConnection, model: str, user: str, rng: random.Random, tally: Tally) -> None:
    text, wanted = question(rng)
    body = {"model": model, "user": user, "temperature": 0, "max_tokens": 40, "messages": [{"role": "user", "content": text}]}
    status, headers, answer = _post(connection, "/v1/chat/completions", body)
    if status != 200:
        tally.fail(f"status {status}: {answer}")
        return
    good = right(answer["choices"][0]["message"]["content"] or "", wanted)
    tally.add(user, headers.get("x-pointsman-backend", "?").split("#")[0], good)
    status, _, told = _post(connection, "/v1/feedback", {"response": answer["id"], "name": METRIC, "value": good})
    if status != 200:
        tally.fail(f"feedback, status {status}: {told}")


def _post(connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, http.client.HTTPMessage, Any]:
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.headers, json.loads(answer.read())


def differences(tally: Tally, result: dict[str, Any], arms: Sequence[str]) -> list[str]:
    """What the report says otherwise than the clients saw, in words; `arms` are called as their backends are."""
    found = [f"user {user} was moved" for user in tally.moved]
    told = {arm["name"]: arm for arm in result["arms"]}
    for name in arms:
        arm = told.get(name)
        if arm is None:
            found.append(f"the report has no arm {name}")
            continue
        mean = arm["metrics"].get(f"feedback:{METRIC}", {}).get("value")
        own = tally.right[name] / tally.asked[name] if tally.asked[name] else None
        for what, theirs, ours in (
            ("requests", arm["requests"], tally.asked[name]),
            ("users", arm["units"], len(tally.users[name])),
            ("right answers", mean, own),
        ):
            same = theirs == ours or (theirs is not None and ours is not None and abs(theirs - ours) < 1e-9)
            if not same:
                found.append(f"arm {name}: {what} {theirs} in the report, {ours} seen")
    return found
