"""Reloads of a running process: by signal, by a changed file, and refused; engines and answers under way live through them."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.engine import Engine
from tests.gateway.serving import Process, eventually, serving

TOY = {"engine": "llamacpp", "model": "builtin", "context": 1024, "slots": 2}


def config(engine: Engine, *routes: str, **backends: Any) -> dict[str, Any]:
    target = {"targets": [{"backend": "fake", "model": "fake"}]}
    return {
        "server": {"port": 0, "admin": {"port": 0}, "log": {"level": "info", "format": "json"}},
        "backends": {"fake": {"url": engine.url}, **backends},
        "routes": dict.fromkeys(routes, target),
    }  # fmt: skip


def toy(process: Process) -> dict[str, Any] | None:
    """The toy engine's view once it is ready."""
    return next((e for e in process.status()["engines"] if e["state"] == "ready"), None)


def test_a_changed_file_is_taken_over_and_a_broken_one_is_not(tmp_path: Path) -> None:
    with Engine() as engine, serving(tmp_path, config(engine, "m")) as process:
        process.write(config(engine, "m", "second"))
        eventually(lambda: process.models() == ["m", "second"] or None, "the second route")
        process.file.write_text("server: [not a mapping")
        warning = eventually(lambda: next(iter(process.status()["warnings"]), None), "a warning")
        assert "refused" in warning
        assert process.models() == ["m", "second"] and process.chat().status_code == 200
        process.write(config(engine, "m"))
        process.process.send_signal(signal.SIGHUP)
        eventually(lambda: process.models() == ["m"] or None, "the first state again")
        assert process.status()["warnings"] == []


def test_no_answer_is_lost_by_reloads(tmp_path: Path) -> None:
    with Engine() as engine, serving(tmp_path, config(engine, "m")) as process:
        stop, codes = threading.Event(), []

        def ask() -> None:
            with httpx.Client(base_url=process.base, timeout=60) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "two words"}]}
                while not stop.is_set():
                    codes.append(client.post("/v1/chat/completions", json=body).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(5):
            process.write(config(engine, "m", f"extra{n}"))
            process.process.send_signal(signal.SIGHUP)
            eventually(lambda n=n: f"extra{n}" in process.models() or None, "the reload")  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join()
        assert len(codes) > 5 and set(codes) == {200}


def test_an_engine_that_did_not_change_lives_on_and_a_changed_one_is_replaced(tmp_path: Path) -> None:
    with Engine() as engine, serving(tmp_path, config(engine, "m", toy=TOY)) as process:
        first = eventually(lambda: toy(process), "the engine")
        process.write(config(engine, "m", "second", toy=TOY))
        eventually(lambda: "second" in process.models() or None, "the reload")
        same = eventually(lambda: toy(process), "the engine after the reload")
        assert same["pid"] == first["pid"] and process.chat(model="toy").status_code == 200
        process.write(config(engine, "m", toy={**TOY, "context": 2048}))
        other = eventually(lambda: e if (e := toy(process)) and e["pid"] != first["pid"] else None, "the new engine")
        assert other["slots"] == 2
        answer = eventually(lambda: a if (a := process.chat(model="toy")).status_code == 200 else None, "an answer of the new engine")
        assert answer.json()["choices"][0]["message"]["content"]
        process.write(config(engine, "m"))
        eventually(lambda: process.status()["engines"] == [] or None, "the end of the engine")


def test_an_unreadable_model_is_one_clear_sentence_and_others_go_on(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(40))
    missing = {**TOY, "model": str(tmp_path / "none.gguf")}
    with Engine() as engine, serving(tmp_path, config(engine, "m", bad={**TOY, "model": str(bad)}, gone=missing)) as process:
        for name in ("bad", "gone"):
            answer = eventually(lambda name=name: a if (a := process.chat(model=name)).status_code == 503 else None, name)  # type: ignore[misc]
            error = answer.json()["error"]
            assert error["code"] == "no_replica" and error["origin"] == "backend" and ".gguf" in error["message"], error
            assert "\n" not in error["message"]
        assert process.chat().status_code == 200
