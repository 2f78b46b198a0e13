"""The control plane over real sockets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin.app import create
from gateway.admin.guard import Access, key_check
from gateway.admin.pages import FOLDER
from gateway.admin.state import Snapshot
from tests.gateway.admin import fake


@pytest.fixture
def state() -> fake.FakeState:
    return fake.busy()


@pytest.fixture
def http(state: fake.FakeState) -> Iterator[httpx.Client]:
    with fake.served(create(state)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def error(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "code", "param", "origin"} and found["message"].endswith(".")
    return found


def test_the_status_is_the_snapshot(http: httpx.Client, state: fake.FakeState) -> None:
    answer = http.get("/api/status")
    assert answer.status_code == 200
    assert msgspec.json.decode(answer.content, type=Snapshot) == state.shown


def test_requests_newest_first_and_redacted(http: httpx.Client, state: fake.FakeState) -> None:
    state.records[0].message = "401 from upstream: wrong key sk-abcdefghijklmnop"
    rows = http.get("/api/requests", params={"limit": 3}).json()["requests"]
    assert [row["id"] for row in rows] == ["req-0", "req-1", "req-2"]
    assert "[redacted]" in rows[0]["message"] and "sk-abc" in state.records[0].message, "the record itself is left alone"
    for bad in ("0", "1001", "x"):
        assert "limit" in error(http.get("/api/requests", params={"limit": bad}))["message"]


def test_an_engines_log(http: httpx.Client, state: fake.FakeState) -> None:
    lines = http.get("/api/engines/broken/log").json()["lines"]
    assert lines[0].startswith("llama_model_load") and "do-not-show-me" not in json.dumps(lines)
    assert len(http.get("/api/engines/toy/log", params={"lines": 7}).json()["lines"]) == 7
    state.logs["org/model:Q4"] = ["slashes in names"]
    assert http.get("/api/engines/org%2Fmodel:Q4/log").json() == {"engine": "org/model:Q4", "lines": ["slashes in names"]}
    missing = http.get("/api/engines/nobody/log")
    assert missing.status_code == 404 and error(missing)["code"] == "engine_not_found"


def test_actions(http: httpx.Client, state: fake.FakeState) -> None:
    answer = http.post("/api/engines/toy/restart")
    assert (answer.status_code, answer.json()["ok"]) == (202, True)
    assert http.post("/api/engines/nobody/restart").status_code == 404
    assert http.post("/api/reload").json()["generation"] == 1
    assert state.calls == ["restart toy", "reload"]
    state.refusal = "$.routes.a: no such backend 'b' (api_key=abc)"
    refused = http.post("/api/reload")
    assert refused.status_code == 422 and "$.routes.a" in refused.text and "abc" not in refused.text
    assert http.get("/api/reload").status_code == 405


def test_other_sites_change_nothing(http: httpx.Client, state: fake.FakeState) -> None:
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        for path in ("/api/reload", "/api/engines/toy/restart"):
            assert error(http.post(path, headers=headers))["origin"] == "client"
    assert state.calls == []
    assert "access-control-allow-origin" not in http.options("/api/status", headers={"origin": "https://evil.example"}).headers


def test_the_configuration_shows_no_secret(http: httpx.Client, state: fake.FakeState) -> None:
    state.settings = {
        "keys": [{"name": "ci", "hash": "sha256:feed", "admin": True}],
        "backends": {
            "west": {
                "urls": ["https://u:pw@west/v1"],
                "api_key": "sk-abcdefgh",
                "headers": {"Authorization": "Bearer x", "x-team": "a"},
            }
        },
    }
    shown = http.get("/api/config")
    assert all(secret not in shown.text for secret in ("feed", "pw@", "abcdefgh", "Bearer x"))
    assert shown.json()["backends"]["west"]["headers"]["x-team"] == "a" and shown.json()["keys"][0]["admin"] is True


def test_metrics_are_read_by_the_reference_parser(http: httpx.Client, state: fake.FakeState) -> None:
    state.counts.observe(fake.record(0))
    answer = http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert any(family.name == "pointsman_requests" for family in text_string_to_metric_families(answer.text))


def test_every_answer_has_the_security_headers(http: httpx.Client) -> None:
    for path in ("/", "/docs", "/api/status", "/metrics", "/openapi.json", "/nothing", "/static/app.js", "/static/nothing"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "unsafe" not in headers["content-security-policy"] and "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] in ("no-store", "no-cache")
    refused = http.get("/", headers={"host": "evil.example"})
    assert refused.status_code == 421 and refused.headers["x-frame-options"] == "DENY"


def test_the_pages_need_no_other_site() -> None:
    """No address of another site, no script or style in the markup: else the page breaks offline or under its own policy."""
    for path in FOLDER.iterdir():
        text = path.read_text()
        addresses = re.findall(r"https?://[^\s\"'`<>)]+", text)
        outside = [url for url in addresses if "127.0.0.1" not in url and "www.w3.org/2000/svg" not in url]
        assert not outside, f"{path.name}: {outside}"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path.name
        if path.suffix == ".html":
            assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", text), path.name


def test_files_are_cached_by_their_tag_and_nothing_else_is_served(http: httpx.Client) -> None:
    first = http.get("/static/app.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = http.get("/static/app.js", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/", "/static/app.py"):
        assert http.get(path).status_code == 404
    assert http.get("/favicon.ico").headers["content-type"] == "image/svg+xml"


def test_the_document_describes_what_is_there(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["info"]["version"] == "0.1.0"
    wanted = {"/api/status", "/api/requests", "/api/engines/{name}/log", "/api/engines/{name}/restart"}
    wanted |= {"/api/reload", "/api/config", "/metrics", "/api/experiments", "/api/experiments/{name}"}
    wanted |= {"/api/residency", "/api/residency/{name}", "/api/residency/{name}/load", "/api/residency/{name}/unload"}
    wanted |= {"/api/experiments/{name}/report", "/api/experiments/{name}/{action}"}
    assert set(document["paths"]) == wanted
    text = json.dumps(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]
    assert "Snapshot" in document["components"]["schemas"]


def test_a_bug_is_an_error_in_the_same_shape(http: httpx.Client, state: fake.FakeState) -> None:
    state.logs = None  # type: ignore[assignment]
    answer = http.get("/api/engines/toy/log")
    assert answer.status_code == 500 and error(answer)["origin"] == "gateway"
    assert "TypeError" in answer.text and "NoneType" not in answer.text and answer.headers["x-frame-options"] == "DENY"


def test_with_a_key(state: fake.FakeState) -> None:
    app = create(state, access=Access(authorize=key_check(["right"])), loopback=False)
    with fake.served(app) as url, httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/").status_code == 200
        refused = http.get("/api/status")
        assert refused.status_code == 401 and "Bearer" in refused.headers["www-authenticate"] and "right" not in refused.text
        assert http.get("/api/status", headers={"authorization": "Bearer right"}).status_code == 200


def test_an_open_door_to_the_network_is_refused(state: fake.FakeState) -> None:
    with pytest.raises(ValueError, match="admin key"):
        create(state, loopback=False)


def test_the_chat_client_is_not_imported_at_start() -> None:
    code = "import sys, gateway.admin.app; sys.exit(any(m.split('.')[0] in ('httpx', 'jinja2', 'prometheus_client') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
