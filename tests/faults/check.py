"""The one law of faults: a client sees a prefix of the golden answer in whole events, then a well-formed error. Pure checks."""

from __future__ import annotations

from typing import Any

from tests.fakes.reader import Answer, envelope, event_doc
from tests.golden import Golden

DONE = b"data: [DONE]"


def failed(answer: Answer, *statuses: int, origin: str = "backend") -> dict[str, Any]:
    """The error object of an answer that must be an error with one of the statuses. Raises AssertionError."""
    assert answer.status in statuses, (answer.status, answer.body[:500])
    assert answer.headers["content-type"].startswith("application/json"), answer.headers
    assert answer.headers.get("x-request-id"), answer.headers
    error = answer.error
    assert error["origin"] == origin, error
    return error


def cut_stream(answer: Answer, whole: list[bytes]) -> dict[str, Any]:
    """The error of a stream under 200: `whole[:k]`, one error event, nothing after it. Raises AssertionError."""
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
    found = [event for event in answer.events if not event.startswith(b":")]
    assert found[:-1] == whole[: len(found) - 1], found[-2:]
    assert not any(event.startswith(DONE) for event in found), found
    assert found[-1].startswith(b"data: ") and found[-1].endswith(b"\n\n")
    error = envelope(event_doc(found[-1]))
    assert error["origin"] == "backend", error
    return error


def faulty(answer: Answer, case: Golden) -> int:
    """How many golden events a failed answer held (0: an error status). Raises AssertionError when it is no such answer."""
    if answer.status != 200:
        failed(answer, 500, 502, 503, 504)
        return 0
    assert case.stream, f"a cut answer was passed on as whole: {answer.body!r}"
    cut_stream(answer, case.client_events)
    assert len(answer.events) > 1, "the head went out before any content"
    return len(answer.events) - 1


def complete(answer: Answer, case: Golden) -> None:
    """The answer is the golden one, byte for byte."""
    assert answer.status == 200, (answer.status, answer.body[:300])
    assert answer.body == case.client
    wanted = "text/event-stream" if case.stream else "application/json"
    assert answer.headers["content-type"].startswith(wanted)
    assert answer.headers.get("x-request-id")
