"""Keys that do not expire: the header line is made once."""

from __future__ import annotations


def line(name: str, value: str) -> bytes:
    """One header line with its CRLF. Raises ValueError, without the value, for what no header may hold."""
    try:
        made = f"{name}: {value}".encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"the value of '{name}' has characters that no header may hold; is it the key, whole and alone?") from None
    if not value or any(byte in made for byte in (b"\r", b"\n", b"\0")):
        raise ValueError(f"the value of '{name}' is empty or has a line break in it; is it the key, whole and alone?")
    return made + b"\r\n"


class Fixed:
    """Header lines that are always the same. Immutable."""

    __slots__ = ("_lines", "_shown")

    def __init__(self, shown: str, lines: bytes) -> None:
        self._shown, self._lines = shown, lines

    def __repr__(self) -> str:
        return f"<{self._shown}>"  # never the key

    def lines(self, method: str, path: str, body: bytes) -> bytes:
        """The header lines; whatever the request."""
        return self._lines

    def start(self) -> None:
        """Does nothing: a key needs no fetching."""

    def close(self) -> None:
        """Does nothing."""


class Bearer(Fixed):
    """`authorization: Bearer KEY`."""

    def __init__(self, key: str) -> None:
        super().__init__("Bearer", line("authorization", f"Bearer {key}" if key else ""))


class ApiKey(Fixed):
    """A key under a header of the provider's own: `x-api-key` (Anthropic), `api-key` (Azure), `x-goog-api-key` (AI Studio).
    `more`: header lines that always go with it, such as `anthropic-version`."""

    def __init__(self, header: str, key: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(f"ApiKey {header}", line(header, key) + b"".join(line(name, value) for name, value in more))


class Nothing(Fixed):
    """No authentication: a server that asks for none."""

    def __init__(self) -> None:
        super().__init__("Nothing", b"")
