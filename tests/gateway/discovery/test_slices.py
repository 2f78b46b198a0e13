"""From slices to endpoints, and endpoints to numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.discovery.slices import ENDPOINTS_MAX, Endpoint, Found, Service, Slice, endpoints, numbered, parse
from tests.fakes.kubernetes import ending, endpoint, port, slice_of

SERVICE = Service("models", "vllm")


def read(*slices: dict[str, Any]) -> list[Slice]:
    return [msgspec.convert(one, Slice) for one in slices]


def found(*slices: dict[str, Any], service: Service = SERVICE) -> Found:
    return endpoints(read(*slices), service)


def urls(*slices: dict[str, Any], service: Service = SERVICE) -> list[str]:
    return [one.url for one in found(*slices, service=service).endpoints if one.ready]


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("k8s:models/vllm", Service("models", "vllm")),
        ("k8s:/vllm", Service("", "vllm")),
        ("k8s:models/vllm:http", Service("models", "vllm", "http")),
        ("k8s:models/vllm:8000/v1/", Service("models", "vllm", 8000, "/v1")),
        ("k8s:models/vllm/openai/v1", Service("models", "vllm", None, "/openai/v1")),
        ("k8s:a-1/b-2:h-3/", Service("a-1", "b-2", "h-3")),
    ],
)
def test_what_a_text_names(text: str, service: Service) -> None:
    assert parse(text) == service


@pytest.mark.parametrize(
    "text",
    ["k8s:", "k8s:vllm", "k8s:/", "k8s://models/vllm", "k8s:Models/vllm", "k8s:models/vllm:", "k8s:models/vllm:http:80", "k8s:m/v/v1?x=1",
     "k8s:m/v/a b", f"k8s:{'n' * 64}/v", "k8s:-a/v", "k8s:a/v-", "k8s:models/vllm\n"],
)  # fmt: skip
def test_what_names_no_service_is_told_the_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not k8s:NAMESPACE/SERVICE\[:PORT\]\[/PATH\], as in "):
        parse(text)


@pytest.mark.parametrize("number", ["0", "65536", "99999"])
def test_a_port_that_cannot_be(number: str) -> None:
    with pytest.raises(ValueError, match=f"names the port {number}"):
        parse(f"k8s:models/vllm:{number}")


def test_conditions_say_who_takes_calls() -> None:
    one = slice_of(
        "s", "vllm",
        [
            endpoint("10.0.0.1"), endpoint("10.0.0.2", ready=True, serving=True, terminating=False), endpoint("10.0.0.3", ready=False),
            ending("10.0.0.4"), endpoint("10.0.0.5", ready=True, terminating=True), endpoint("10.0.0.6", serving=False),
            {"addresses": []}, {"addresses": ["10.0.0.7"], "conditions": {"ready": None, "serving": None, "terminating": None}},
        ],
        [port(8000)],
    )  # fmt: skip
    told = found(one)
    assert told.problem == ""
    assert [(e.url.split("//10.0.0.")[1], e.ready) for e in told.endpoints] == [
        ("1:8000", True), ("2:8000", True), ("6:8000", True), ("7:8000", True), ("3:8000", False),
    ]  # fmt: skip


def test_the_same_address_in_two_slices_is_one_endpoint() -> None:
    two = [slice_of(name, "vllm", [endpoint("10.0.0.1", ready=ready)], [port(8000)]) for name, ready in (("a", True), ("b", False))]
    assert found(*two).endpoints == found(*reversed(two)).endpoints == (Endpoint("http://10.0.0.1:8000"),)
    over = slice_of("c", "vllm", [ending("10.0.0.1")], [port(8000)])
    assert found(*two, over).endpoints == found(over, *two).endpoints == ()


def test_of_both_stacks_a_pod_has_one_address() -> None:
    six = slice_of("a", "vllm", [endpoint("fd00::1", pod="one"), endpoint("fd00::2", pod="two")], [port(8000)], "IPv6")
    four = slice_of("b", "vllm", [endpoint("10.0.0.1", "10.9.9.9", pod="one")], [port(8000)])
    assert urls(six, four) == ["http://10.0.0.1:8000", "http://[fd00::2]:8000"]
    assert urls(six) == ["http://[fd00::1]:8000", "http://[fd00::2]:8000"]
    assert "type Odd" in found(slice_of("c", "vllm", [endpoint("x")], [port(8000)], "Odd")).problem
    assert urls(slice_of("c", "vllm", [endpoint("pod.example.org")], [port(8000)], "FQDN")) == ["http://pod.example.org:8000"]


def test_which_port_is_meant() -> None:
    both = slice_of("a", "vllm", [endpoint("10.0.0.1")], [port(8000), port(9000, "metrics"), port(8001, "u", protocol="UDP")])
    assert urls(both, service=Service("models", "vllm", "metrics", "/v1")) == ["http://10.0.0.1:9000/v1"]
    assert urls(both, service=Service("models", "vllm", 8000)) == ["http://10.0.0.1:8000"]
    for wanted, words in ((None, "say which one"), ("grpc", "named grpc"), (80, "with the number 80"), ("u", "named u")):
        told = found(both, service=Service("models", "vllm", wanted))
        assert told.endpoints == () and words in told.problem and "http (8000), metrics (9000)" in told.problem
    unnamed = slice_of("a", "vllm", [endpoint("10.0.0.1")], [{"name": "", "port": 8000, "appProtocol": "HTTPS"}])
    assert urls(unnamed) == ["https://10.0.0.1:8000"]
    none = slice_of("a", "vllm", [endpoint("10.0.0.1")])  # of a headless Service without ports
    assert urls(none, service=Service("models", "vllm", 8000)) == ["http://10.0.0.1:8000"]
    assert "TCP ports are none" in found(none).problem
    any_port = slice_of("a", "vllm", [endpoint("10.0.0.1")], [{"name": "", "port": None}])
    assert urls(any_port, service=Service("models", "vllm", 8000)) == ["http://10.0.0.1:8000"]


def test_a_service_without_pods_has_no_problem() -> None:
    empty = {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": None, "ports": None}
    assert found(empty) == found() == Found()


def test_a_thousand_at_most_and_the_ready_ones_first() -> None:
    many = [endpoint(f"10.{i >> 8}.{i & 255}.1", ready=i >= 600) for i in range(1600)]
    told = found(*(slice_of(f"s{i}", "vllm", many[i : i + 100], [port(8000)]) for i in range(0, 1600, 100)))
    assert len(told.endpoints) == ENDPOINTS_MAX and all(e.ready for e in told.endpoints)
    assert told.problem == "models/vllm has 1600 endpoints; 1000 of them are used"


ADDRESSES = st.integers(0, 12).map(lambda i: f"10.0.0.{i}")
ENDPOINTS = st.builds(
    lambda address, ready, terminating: endpoint(address, ready=ready, terminating=terminating), ADDRESSES, st.booleans(), st.booleans()
)
SLICES = st.lists(st.lists(ENDPOINTS, max_size=8), max_size=5).map(
    lambda lists: [slice_of(f"s{i}", "vllm", each, [port(8000)]) for i, each in enumerate(lists)]
)


@settings(max_examples=200, deadline=None)
@given(SLICES, st.randoms(use_true_random=False))
def test_the_order_of_slices_does_not_matter_and_nothing_is_there_twice(slices: list[dict[str, Any]], rng: Any) -> None:
    told = found(*slices)
    shuffled = [{**one, "endpoints": rng.sample(one["endpoints"], len(one["endpoints"]))} for one in slices]
    rng.shuffle(shuffled)
    assert found(*shuffled) == told
    said = [(e["addresses"][0], e["conditions"]) for one in slices for e in one["endpoints"]]
    ends = {address for address, c in said if c["terminating"]}
    ready = {address for address, c in said if c["ready"]} - ends
    assert [e.url for e in told.endpoints if e.ready] == sorted(f"http://{a}:8000" for a in ready)
    assert {e.url for e in told.endpoints if not e.ready} == {f"http://{a}:8000" for a, _ in said if a not in ready | ends}
    assert len({e.url for e in told.endpoints}) == len(told.endpoints)


URLS = st.lists(st.integers(0, 30).map(lambda i: Endpoint(f"http://10.0.0.{i}")), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(URLS, max_size=8))
def test_numbers_stay_are_unique_and_few(steps: list[list[Endpoint]]) -> None:
    now: dict[str, int] = {}
    most = 0
    for step in steps:
        before, now = now, numbered(now, step)
        assert now.keys() == {e.url for e in step}
        assert len({*now.values()}) == len(now)
        assert all(now[url] == before[url] for url in now.keys() & before.keys())
        most = max(most, len(now))
        assert all(0 <= number < most for number in now.values())
        fresh = sorted(now[url] for url in now.keys() - before.keys())
        kept = {now[url] for url in now.keys() & before.keys()}
        assert fresh == [n for n in range(len(kept) + len(fresh)) if n not in kept][: len(fresh)]
