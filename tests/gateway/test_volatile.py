"""Which line of earlier prompts breaks reuse, as it is told: by `explain` and on the status page, its text to admins only."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from backends.openai import OpenAILink
from backends.slots.link import SlotLink
from backends.slots.shared import Shared
from backends.slots.store import Store
from gateway import volatile
from gateway.cli_explain import text
from gateway.config import Config, parse
from tests.fakes.engine import Engine
from tests.harness import Running, chat, running

RULES = "\\n".join(f"Rule {i}: always say {i * 7 % 13}." for i in range(60))
SECRET = "sk-" + "a1B2c3D4e5F6" * 3


def config(engine: Engine, keys: list[dict[str, Any]]) -> Config:
    server = {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}}
    routes = {"m": {"targets": [{"backend": "e", "model": "m"}]}}
    return parse(json.dumps({"server": server, "backends": {"e": {"url": engine.url}}, "routes": routes, "keys": keys}), {})


def watched(gateway: Running, folder: Path, *tenants: str) -> Store:
    """Makes the route's link one that owns slots, and has seen prompts with a time in them."""
    store = Store(folder / "near", None, 0, 0, b"m")

    def change() -> None:
        (replica,) = gateway.gateway.fleet.replicas["e"]
        shared = Shared(store)
        for tenant in tenants:
            for i in range(5):
                shared.watch.see("m", tenant, f'[{{"role":"system","content":"It is {i} {SECRET}\\n{RULES}"}}'.encode())
        assert isinstance(replica.link, OpenAILink)
        replica.link = SlotLink(replica.link, shared, 2)
        gateway.gateway.fleet.slots.shared["e"] = shared

    gateway.call(change)
    return store


def explained(gateway: Running, key: str) -> dict[str, Any]:
    answer = gateway.ask(chat(model="m"), "/v1/explain", {"authorization": f"Bearer {key}"} if key else {})
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


def test_its_text_is_for_admins_and_its_figures_for_its_tenant(tmp_path: Path) -> None:
    keys: list[dict[str, Any]] = [
        {"name": "a", "key": "sk-1"},
        {"name": "b", "key": "sk-2"},
        {"name": "root", "key": "sk-3", "admin": True},
    ]
    with Engine() as engine, running(config(engine, keys)) as gateway:
        store = watched(gateway, tmp_path, "a")
        (mine,) = explained(gateway, "sk-1")["volatile"]
        assert mine["times"] == 4 and mine["prompts"] == 5 and mine["lost_tokens"] > 100 and mine["examples"] is None
        assert "It is" not in json.dumps(mine) and mine["note"].startswith(
            f"The first {mine['stable_tokens']} tokens are stable; then a line"
        )
        assert explained(gateway, "sk-2")["volatile"] == []
        told = explained(gateway, "sk-3")
        (seen,) = told["volatile"]
        assert len(seen["examples"]) == 3 and seen["examples"][0].startswith("It is 4") and SECRET not in json.dumps(told)
        assert "earlier prompts: The first" in text(told) and "'It is …'" in text(told)
        gateway.call(store.close)


def test_without_keys_everybody_is_the_owner_and_the_page_says_it(tmp_path: Path) -> None:
    with Engine() as engine, running(config(engine, [])) as gateway:
        assert explained(gateway, "")["volatile"] == []
        store = watched(gateway, tmp_path, "", "other")
        (one,) = explained(gateway, "")["volatile"]
        assert one["examples"][0].startswith("It is 4")
        snapshot = gateway.call(lambda: gateway.gateway.snapshot())
        notes = snapshot.warnings
        assert {one.tenant for one in snapshot.volatile} == {"", "other"} and SECRET not in repr(snapshot.volatile)
        assert len(notes) == 2 and notes[0].startswith("Prompts for m: The first") and "Prompts for m of other" in notes[1]
        assert "'It is …'" in notes[0] and SECRET not in "".join(notes)
        gateway.call(store.close)


def test_no_more_than_a_few_are_told() -> None:
    shared = Shared(Store(Path("nowhere"), None, 0, 0, b"m"))
    for tenant in range(volatile.MOST + 3):
        for i in range(5):
            shared.watch.see("m", f"t{tenant}", f'"It is {i}\\n{RULES}'.encode())
    assert len(volatile.notes(volatile.worst(shared.watch.told(1.0)))) == volatile.MOST
    asyncio.run(asyncio.to_thread(shared.store.close))
