"""HTML and SVG that cannot be broken out of: what is not markup is escaped. Pure.

Names of tensors, recipes and classes come from models and from people; they reach a
page through ``element`` alone.
"""

import html
import re
from collections.abc import Iterable

VOID = frozenset({"meta", "link", "br"})
LONGEST_TEXT = 400
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control and direction characters: no valid HTML, or made to deceive."""


class Markup(str):
    """Text that is markup already, and so is not escaped again."""

    __slots__ = ()


def element(tag: str, *children: "Markup | str | None", **attributes: object) -> Markup:
    """Return an element; plain strings among ``children`` are escaped.

    Attributes that are None are left out; ``class_`` is ``class``, and other
    underscores are hyphens, as in ``stroke_width``.
    """
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(_value(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Markup(f"<{tag}{told}>")
    return Markup(f"<{tag}{told}>{together(children)}</{tag}>")


def together(children: Iterable["Markup | str | None"]) -> Markup:
    """Return all ``children``, one after the other."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escaped(child)
            for child in children
            if child is not None
        )
    )


def escaped(text: str) -> str:
    """Return text that means itself in markup; what is endless is cut."""
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}…"
    return html.escape(UNSEEN.sub("\ufffd", text))


def _value(value: object) -> str:
    """Return an attribute's value; a coordinate needs no more than two decimals."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
