"""Elements as text. All text and all attribute values are escaped here; what is `Markup` already is not escaped again. Pure."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | None


def join(*children: Child) -> Markup:
    """One after the other; None is left out."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children if child is not None))


def tag(name: str, *children: Child, **given: object) -> Markup:
    """An element. `aria_label` is `aria-label`, `class_` is `class`; attributes that are None are left out."""
    attributes = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in given.items() if value is not None
    )
    return Markup(f"<{name}{attributes}>{join(*children)}</{name}>")
