"""Forms: the model is found wherever the bytes are cut, and what two readers could read differently is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Fault
from gateway.multipart import MAX_HEAD, MAX_MODEL, MAX_PARTS, Form, boundary, content_type, disposition, field

MODEL = field(b"B", b"model", b"whisper-1")
FILE = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a \\"b\\".wav"\r\nContent-Type: audio/wav\r\n\r\n%b\r\n'
END = b"--B--\r\n"


def read(body: bytes, step: int = 1 << 20) -> Form:
    form = Form(b"B")
    for at in range(0, len(body), step):
        form.feed(body[at : at + step])
    form.close()
    return form


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("data", [b"", b"RIFF", b"\r\n--", b"\r\n--C\r\n" * 40, b"\r\n\r\n--A", bytes(range(256)) * 300])
def test_the_model_is_found(data: bytes, step: int) -> None:
    for body in (MODEL + FILE % data + END, FILE % data + MODEL + END, FILE % data + MODEL + FILE % data + END[:-2]):
        form = read(body, step)
        assert form.model == "whisper-1" and form.span is not None
        assert body[form.span[0] : form.span[1]] == b"whisper-1"
        assert len(form.buffer) < 200


def test_a_form_without_a_model() -> None:
    form = read(FILE % b"x" + field(b"B", b"language", b"de") + END)
    assert (form.model, form.span) == (None, None)
    assert read(field(b"B", b"model", b"") + END).model == ""


@given(st.binary(max_size=200), st.integers(1, 60))
def test_any_file_passes(data: bytes, step: int) -> None:
    if b"--B" not in data:
        assert read(FILE % data + MODEL + END, step).model == "whisper-1"


@given(st.binary(max_size=300), st.integers(1, 20))
def test_any_bytes_are_read_or_refused(body: bytes, step: int) -> None:
    try:
        read(MODEL + b"--B" + body, step)
    except Fault as fault:
        assert (fault.kind, fault.origin) == ("bad_request", "client")


NAMED = b"--B\r\nContent-Disposition: form-data; name=%b\r\n\r\nx\r\n"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "ends before"),
        (b"--C\r\n", "does not begin"),
        (b"preamble\r\n" + MODEL + END, "does not begin"),
        (MODEL, "ends before"),
        (MODEL + b"--B", "ends before"),
        (b"--B--\r\n", "neither a part nor the end"),
        (MODEL + b"--Bxx", "neither a part nor the end"),
        (MODEL + END + MODEL, "follows the form's last"),
        (MODEL + MODEL + END, "one plain field"),
        (NAMED % b"Model" + END, "one plain field"),
        (NAMED % b'" model"' + END, "one plain field"),
        (NAMED % b'model; filename="x"' + END, "one plain field"),
        (NAMED % b"model; filename*=UTF-8''x" + END, "one plain field"),
        (NAMED % b'"mo\\del"' + END, "an escape"),
        (NAMED % b'"mo%64el"' + END, "an escape"),
        (NAMED % b"a; name=model" + END, "one name"),
        (NAMED % b"a; name*=UTF-8''model" + END, "one name"),
        (NAMED % b'"a' + END, "has no end"),
        (NAMED % b'"a"model' + END, "semicolons"),
        (NAMED % b'a; filename' + END, "no value"),
        (b"--B\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n" + END, "must be form-data"),
        (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, "one name"),
        (b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END, "needs one Content-Disposition"),
        (b"--B\r\nContent-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=model\r\n\r\nx\r\n" + END, "needs one"),
        (b"--B\r\nContent-Disposition: form-data;\r\n name=model\r\n\r\nx\r\n" + END, "malformed"),
        (b"--B\r\nContent-Disposition: form-data; name=a\n\r\n\r\nx\r\n" + END, "malformed"),
        (b"--B\r\n\r\n\r\n\r\nx\r\n" + END, "malformed"),
        (b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\n--B\r\n" + END, "no line end"),
        (b"--B\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n", "exceed"),
        (field(b"B", b"model", b"x" * (MAX_MODEL + 1)) + END, "longer than"),
        (field(b"B", b"model", b"\xff") + END, "not valid UTF-8"),
        (field(b"B", b"a", b"") * (MAX_PARTS + 1) + END, "more than"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [7, 1 << 20])
def test_what_can_be_read_in_two_ways_is_refused(body: bytes, why: str, step: int) -> None:
    with pytest.raises(Fault, match=why) as caught:
        read(body, step)
    assert caught.value.status == 400


def test_a_name_that_never_ends_is_not_held() -> None:
    form = Form(b"B")
    form.feed(MODEL[:-11])
    with pytest.raises(Fault, match="longer than"):
        for _ in range(100):
            form.feed(b"x" * 100)


def test_the_boundary() -> None:
    assert boundary(b"application/json") is None and boundary(b"") is None
    assert boundary(b"Multipart/Form-Data; charset=utf-8; boundary=abc") == b"abc"
    assert boundary(b'multipart/form-data;boundary="a b"; x=y') == b"a b"
    for wrong in (
        b"",
        b"boundary=",
        b'boundary="a "',
        b"boundary=a; boundary=b",
        b"boundary=" + b"a" * 71,
        b'boundary="a\\"b"',
        b"boundary",
    ):
        with pytest.raises(Fault):
            boundary(b"multipart/form-data; " + wrong)
    for mark in (b"a-b_c.9", b"a b", b"a:b"):
        assert boundary(content_type(mark)) == mark


def test_a_part() -> None:
    assert disposition(b'content-disposition: FORM-DATA; NAME="a;b=c"; filename=x.wav\r\nX: y') == (b"a;b=c", True)
    assert disposition(b"Content-Disposition:form-data;name=language") == (b"language", False)
