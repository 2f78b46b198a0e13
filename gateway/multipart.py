"""Reads a multipart/form-data body as it passes (RFC 7578), only to find the field `model` in it. Pure; holds no file.

Strict where lenient readers differ: what is found here must be what the backend finds, or a key could reach a model that it may not use.
So a second `model`, a field whose name can be read in two ways and anything before or after the parts are refused. Everything that is
refused raises `Fault` (bad_request, client).
"""

from __future__ import annotations

from collections.abc import Callable

from backends import wire
from backends.types import Fault

MAX_HEAD = 16 * 1024  # bytes of one part's headers
MAX_MODEL = 1024  # bytes of a model's name
MAX_PARTS = 1000
_BOUNDARY = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'()+_,-./:=? ")
_TOKEN = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'+_-.")  # of the above, what needs no quotes
_PARAMETERS = frozenset({b"name", b"filename", b"filename*"})
_END = b"\r\n\r\n"


def boundary(content_type: bytes) -> bytes | None:
    """The boundary of a multipart/form-data content type; None when it is another type. Raises `Fault` when it has none that is valid."""
    kind, _, rest = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        return None
    found = [value for name, value in _parameters(rest) if name == b"boundary"]
    if len(found) != 1 or not 1 <= len(found[0]) <= 70 or not _BOUNDARY.issuperset(found[0]) or found[0].endswith(b" "):
        raise _bad("Content-Type must name one boundary of 1 to 70 characters")
    return found[0]


def content_type(mark: bytes) -> bytes:
    """The content type of a form with that boundary, written in the one way that everybody reads alike."""
    return b"multipart/form-data; boundary=" + (mark if _TOKEN.issuperset(mark) else b'"%b"' % mark)


def field(mark: bytes, name: bytes, value: bytes) -> bytes:
    """One field as it stands before the other parts."""
    return b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (mark, name, value)


class Form:
    """A body on its way: `feed` every piece, `close` at its end. `model` and `span` (its place in the body, from and to in bytes) are
    None until they are found."""

    __slots__ = ("at", "buffer", "mark", "model", "named", "parts", "span", "state")

    def __init__(self, mark: bytes) -> None:
        self.mark = b"\r\n--" + mark
        self.buffer, self.at = b"\r\n", -2  # so that the first delimiter is like the others
        self.model: str | None = None
        self.span: tuple[int, int] | None = None
        self.named = False  # the part that is being read is the model
        self.parts = 0
        self.state: Callable[[], bool] = self._content

    def feed(self, data: bytes) -> None:
        """Takes the next piece. Mutates; keeps no more of it than a part's headers, a model's name or a delimiter needs."""
        self.buffer += data
        while self.state():
            pass

    def close(self) -> None:
        """The body has ended. Raises `Fault` when the form has not."""
        if self.state != self._after:
            raise _bad("the form ends before its last boundary")

    def _consume(self, count: int) -> None:
        self.buffer = self.buffer[count:]
        self.at += count

    def _content(self) -> bool:
        """Inside a part, and before the first: up to the next delimiter."""
        buffer = self.buffer
        found = buffer.find(self.mark)
        if self.parts == 0 and not (found == 0 or self.mark.startswith(buffer)):
            raise _bad("the body does not begin with the boundary that Content-Type names")
        if self.named:
            self._value(found)
        if found < 0:
            if not self.named and self.parts:
                self._consume(max(0, len(buffer) - len(self.mark) + 1))
            return False
        self._consume(found + len(self.mark))
        self.named = False
        self.state = self._edge
        return True

    def _value(self, found: int) -> None:
        if (found if found >= 0 else len(self.buffer) - len(self.mark)) > MAX_MODEL:
            raise wire.bad(f"'model' is longer than {MAX_MODEL} bytes.", param="model")
        if found >= 0:
            try:
                self.model = self.buffer[:found].decode()
            except UnicodeDecodeError:
                raise wire.bad("'model' is not valid UTF-8.", param="model") from None
            self.span = (self.at, self.at + found)

    def _edge(self) -> bool:
        """Right after a delimiter: another part, or the end."""
        if len(self.buffer) < 2:
            return False
        two = self.buffer[:2]
        self._consume(2)
        if two == b"--" and self.parts:
            self.state = self._after
        elif two == b"\r\n":
            self.parts += 1
            if self.parts > MAX_PARTS:
                raise _bad(f"the form has more than {MAX_PARTS} parts")
            self.state = self._head
        else:
            raise _bad("a boundary is followed by something that is neither a part nor the end")
        return True

    def _head(self) -> bool:
        end = self.buffer.find(_END)
        if (end if end >= 0 else len(self.buffer)) > MAX_HEAD:
            raise _bad(f"the headers of a part exceed {MAX_HEAD} bytes")
        if end < 0:
            return False
        name, is_file = disposition(self.buffer[:end])
        if name.strip().lower() == b"model":
            if self.span is not None or is_file or name != b"model":
                raise wire.bad("The form must have one plain field 'model'.", param="model")
            self.named = True
        self._consume(end + len(_END))
        self.state = self._open
        return True

    def _open(self) -> bool:
        """A part's first bytes. To some readers a boundary right after the headers ends an empty part, to others it is its content."""
        tight = self.mark[2:]
        if tight.startswith(self.buffer[: len(tight)]):
            if len(self.buffer) < len(tight):
                return False
            raise _bad("a part has no line end before the next boundary")
        self.state = self._content
        return True

    def _after(self) -> bool:
        if self.buffer.strip(b"\r\n"):
            raise _bad("something follows the form's last boundary")
        self._consume(len(self.buffer))
        return False


def disposition(head: bytes) -> tuple[bytes, bool]:
    """The name of a part, and whether it is a file, from its headers. Raises `Fault` when it can be read in two ways."""
    found: list[bytes] = []
    for line in head.split(b"\r\n"):
        key, colon, value = line.partition(b":")
        if not colon or not key.strip() or line[:1] in b" \t" or b"\n" in line or b"\r" in line or b"\0" in line:
            raise _bad("a part has a malformed header")
        if key.strip().lower() == b"content-disposition":
            found.append(value)
    if len(found) != 1:
        raise _bad("a part needs one Content-Disposition")
    kind, _, rest = found[0].partition(b";")
    given = dict(parameters := _parameters(rest))
    name = given.get(b"name")
    if kind.strip().lower() != b"form-data" or name is None or len(given) != len(parameters) or not _PARAMETERS.issuperset(given):
        raise _bad("a part's Content-Disposition must be form-data with one name and at most one filename")
    if b"\\" in name or b"%" in name:
        raise _bad("a field's name has an escape in it")
    return name, b"filename" in given or b"filename*" in given


def _parameters(text: bytes) -> list[tuple[bytes, bytes]]:
    """`; name=value; other="quoted"` as pairs, names in lower case. Raises `Fault` for what is no such list."""
    out = []
    rest = text.strip()
    while rest:
        key, equals, rest = rest.partition(b"=")
        if not equals:
            raise _bad("a header's parameter has no value")
        if rest[:1] == b'"':
            value, rest = _quoted(rest)
        else:
            value, semicolon, rest = rest.partition(b";")
            value, rest = value.strip(), semicolon + rest
        out.append((key.strip().lower(), value))
        rest = rest.strip()
        if rest and rest[:1] != b";":
            raise _bad("a header's parameters are not separated by semicolons")
        rest = rest[1:].strip()
    return out


def _quoted(text: bytes) -> tuple[bytes, bytes]:
    """The inside of the quoted string at the start of `text`, escapes left as they are, and what follows it."""
    at = 1
    while at < len(text) and text[at : at + 1] != b'"':
        at += 2 if text[at : at + 1] == b"\\" else 1
    if at >= len(text):
        raise _bad("a quoted parameter has no end")
    return text[1:at], text[at + 1 :]


def _bad(why: str) -> Fault:
    return wire.bad(f"The form cannot be read: {why}.", code="invalid_form")
