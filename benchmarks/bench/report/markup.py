"""HTML and SVG as text. What is not `Markup` is escaped here, in one place: names of models and errors come from servers that we do not
trust. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

# No browser keeps these in text, some tools end at them, and some turn what follows around.
_DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0xD800, 0xE000), *_DIRECTIONS), "\ufffd")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | None


def plain(text: str) -> str:
    """Escaped for content and attributes; control characters, turns of direction and lone surrogates become U+FFFD."""
    return escape(text.translate(_CONTROL))


def join(children: Iterable[Child]) -> Markup:
    """One after the other; None is left out."""
    return Markup("".join(c if isinstance(c, Markup) else plain(c) for c in children if c is not None))


def attributes(given: dict[str, object]) -> str:
    """As they stand in a tag: `data_say` is `data-say`, `class_` is `class`; None and False are left out, True stands alone."""
    out = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        out.append(f" {key}" if value is True else f' {key}="{plain(_written(value))}"')
    return "".join(out)


def _written(value: object) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def tag(name: str, *children: Child, **given: object) -> Markup:
    """An element with its end tag. Floats in attributes are places in a drawing: three digits after the point."""
    return Markup(f"<{name}{attributes(given)}>{join(children)}</{name}>")


def spot(name: str, *children: Child, said: str, **given: object) -> Markup:
    """A shape that tells something: by its `title` without scripts, by `data-say` with ours."""
    return tag(name, tag("title", said), *children, **{**given, "data_say": said})


def pc(value: float) -> str:
    """A position in per cent of the drawing."""
    return f"{value:.2f}%"
