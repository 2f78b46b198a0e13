"""The dialect that translates nothing: the target's model in body and path, usage asked for, and whole events only."""

from __future__ import annotations

import msgspec
import pytest

from backends.dialects import relayed
from backends.dialects.relayed import Relayed
from backends.dialects.types import Context
from backends.types import Fault
from backends.wire import parse

EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\r\n\r\ndata: {"choices":[]}\n\n: ping\n\ndata: [DONE]\n\n'


def test_the_request() -> None:
    doc = parse(b'{"model":"route","messages":[1],"new":{"x":1.50}}')
    made = Relayed("/d/{model}/chat?v=1").request(doc, Context("r", 0, "a/b c"))
    assert made.path == "/d/a%2Fb%20c/chat?v=1"
    assert made.body == b'{"model":"a/b c","messages":[1],"new":{"x":1.50}}'
    assert bytes(doc["model"]) == b'"route"'


@pytest.mark.parametrize("given", [b"null", b"{}", b'{"include_usage":false}', b'{"include_usage":false,"other":1}'])
def test_streams_tell_usage(given: bytes) -> None:
    made = Relayed().request(parse(b'{"model":"m","stream_options":' + given + b"}"), Context("r", 0, "m", True))
    options = msgspec.json.decode(made.body)["stream_options"]
    assert options.pop("include_usage") is True
    assert options == ({"other": 1} if b"other" in given else {})
    with pytest.raises(Fault, match="'stream_options' must be a JSON object"):
        Relayed().request(parse(b'{"model":"m","stream_options":1}'), Context("r", 0, "m", True))


def test_answers_pass() -> None:
    one, context = Relayed(), Context("r", 0, "m")
    request = one.request(parse(b'{"model":"m"}'), context)
    assert one.reply(b'{"x": 1}', request, context) == b'{"x": 1}'
    for at in range(len(EVENTS) + 1):
        stream = one.stream(request, context)
        pieces = [stream.feed(EVENTS[:at]), stream.feed(EVENTS[at:]), stream.close()]
        assert b"".join(pieces) == EVENTS
        assert all(not piece or piece.endswith((b"\n\n", b"\n\r\n")) for piece in pieces)


def test_an_event_without_its_end_is_not_sent_and_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    one, context = Relayed(), Context("r", 0, "m")
    stream = one.stream(one.request(parse(b'{"model":"m"}'), context), context)
    assert stream.feed(EVENTS + b"data: {") + stream.close() == EVENTS
    monkeypatch.setattr(relayed, "MAX_EVENT", 10)
    stream = one.stream(one.request(parse(b'{"model":"m"}'), context), context)
    assert stream.feed(EVENTS + b"data: 12345").endswith(b'"code":502}}\n\n')
    assert stream.feed(EVENTS) + stream.close() == b""
