"""Elements as text. All text and all attribute values are escaped here; what is `Markup` already is not escaped again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_SHARE = re.compile(r"([+−-]?\d[\d.,]* %)")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | None


def join(children: Iterable[Child]) -> Markup:
    """One after the other; None is left out."""
    return Markup("".join(c if isinstance(c, Markup) else escape(c) for c in children if c is not None))


def attributes(given: dict[str, object]) -> str:
    """As they stand in a tag: `aria_label` is `aria-label`, `class_` is `class`; None and False are left out, True stands alone.

    Floats are written exactly (`repr`), so that they can be compared.
    """
    out = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        out.append(f" {key}" if value is True else f' {key}="{escape(repr(value) if isinstance(value, float) else str(value))}"')
    return "".join(out)


def tag(name: str, *children: Child, **given: object) -> Markup:
    """An element with its end tag."""
    return Markup(f"<{name}{attributes(given)}>{join(children)}</{name}>")


def sentence(text: str) -> Markup:
    """Words in which no line ends between a number and its per cent sign. The text itself stays what it is."""
    return join(tag("span", part, class_="whole") if i % 2 else part for i, part in enumerate(_SHARE.split(text)))


def at(name: str, *children: Child, said: str = "", **given: object) -> Markup:
    """A shape in a plot. `said`: what it tells, for the pointer and the keyboard."""
    if not said:
        return tag(name, *children, **given)
    return tag(name, tag("title", said), *children, **{**given, "data_say": said})


def pc(value: float) -> str:
    """A position in per cent of the plot."""
    return f"{value:.2f}%"
