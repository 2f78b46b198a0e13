"""The cost of a whole answer in a header of it, the report of parameters, and reasoning renamed on its way."""

from __future__ import annotations

import json
from typing import Any

from backends.costed import HELD, Costed, PricedLink, costed
from backends.dialects.types import Fate, Note
from backends.naming import Naming
from backends.report import LINE, parameters
from backends.types import Call, Fault, Target, Usage
from tests.backends.seen import Seen
from tests.backends.test_openai import Kept, call

JSON = {b"content-type": b"application/json"}
SSE = {b"content-type": b"text/event-stream; charset=utf-8"}
ANSWER = json.dumps({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}}).encode()


def price(usage: Usage) -> float:
    return usage.input * 1e-6 + usage.output * 2e-6


def costs(seen: Seen) -> bytes | None:
    return seen.headers.get(b"x-pointsman-cost")


def test_an_answer_in_one_piece_and_in_many() -> None:
    seen = Seen()
    Costed(seen, price).on_whole(200, JSON, ANSWER)
    assert (costs(seen), seen.body, seen.calls) == (b"0.000018000", ANSWER, ["whole"])
    seen = Seen()
    pieces = Costed(seen, price)
    pieces.on_head(200, JSON)
    for i in range(len(ANSWER)):
        pieces.on_data(ANSWER[i : i + 1])
    assert seen.calls == []
    pieces.on_end()
    assert (costs(seen), seen.body, seen.calls) == (b"0.000018000", ANSWER, ["whole"])


def test_what_has_no_cost_passes() -> None:
    for status, body in ((429, ANSWER), (200, b"{}"), (200, b'{"usage":7}')):
        seen = Seen()
        Costed(seen, price).on_whole(status, JSON, body)
        assert (costs(seen), seen.body) == (None, body)
    seen = Seen()
    Costed(seen, lambda usage: None).on_whole(200, JSON, ANSWER)
    assert costs(seen) is None
    for status, headers in ((500, JSON), (200, SSE)):
        seen = Seen()
        stream = Costed(seen, price)
        stream.on_head(status, headers)
        stream.on_data(ANSWER)
        assert seen.body == ANSWER
        stream.on_end()
        assert costs(seen) is None and seen.ended
    seen = Seen()
    Costed(seen, price).on_fault(Fault("upstream", "gone"))
    assert seen.fault is not None and seen.fault.message == "gone"


def test_a_long_answer_is_not_held() -> None:
    seen = Seen()
    long = Costed(seen, price)
    long.on_head(200, JSON)
    long.on_data(b"x" * HELD)
    assert seen.calls == []
    long.on_data(b"y")
    long.on_data(b"z")
    long.on_end()
    assert seen.body == b"x" * HELD + b"yz" and costs(seen) is None


def test_only_whole_calls_to_targets_with_a_price() -> None:
    seen, free, dear = Seen(), Target("b", "m"), Target("b", "m", price=price)
    assert costed(call({}), free, seen) is seen and costed(call({"stream": True}), dear, seen) is seen
    assert isinstance(costed(call({}), dear, seen), Costed)

    class Played(Kept):
        def send(self, payload: Any, receiver: Any, timeouts: Any) -> Any:
            receiver.on_whole(200, JSON, ANSWER)

    PricedLink(Played()).send(call({}), dear, None, seen)
    assert costs(seen) == b"0.000018000"


def notes(*pairs: tuple[str, Fate]) -> list[Note]:
    return [Note(param, fate, "because") for param, fate in pairs]


def test_the_report_of_parameters() -> None:
    assert parameters([]) == b""
    found = parameters(notes(("max_tokens", "mapped"), ("messages[2].name", "dropped"), ("max_tokens", "mapped"), ("n", "emulated")))
    assert found == b"max_tokens=mapped,messages[2].name=dropped,n=emulated"
    assert parameters(notes(("a\r\nset-cookie: x=1", "dropped"), ("größe,7", "refused"))) == b"a??set-cookie??x?1=dropped,gr??e?7=refused"
    long = parameters(notes(*((f"{i}" * 40, "clamped") for i in range(100, 200))))
    assert len(long) <= LINE and long.endswith(b"=clamped,...") and len(parameters(notes(("x" * 9999, "dropped")))) == 72


def test_renaming_on_the_way() -> None:
    message = json.dumps({"choices": [{"index": 0, "message": {"reasoning_content": "hm"}}]}).encode()
    event = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n'
    seen = Seen()
    Naming(seen, "reasoning").on_whole(200, JSON, message)
    assert b'"reasoning":"hm"' in seen.body and b"reasoning_content" not in seen.body
    for status, wanted in ((200, b""), (500, event)):
        seen = Seen()
        Naming(seen, "none").on_whole(status, SSE, event)
        assert seen.body == wanted
        seen = Seen()
        naming = Naming(seen, "none")
        naming.on_head(status, SSE)
        naming.on_data(event)
        naming.on_end()
        assert (seen.body, seen.ended) == (wanted, True)
    seen = Seen()
    Naming(seen, "none").on_fault(Fault("upstream", "gone"))
    assert seen.fault is not None


def test_a_call_of_a_surface_keeps_the_names() -> None:
    assert Call(b"1", "chat", "m", False, {}, "", {}, 0.0).surface == ""
