"""Good inputs to begin from: an instance of every message, made from its schema."""

import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

from pydantic import ValidationError

import quarterdeck_agent
import quarterdeck_controller
import quarterdeck_shared
from quarterdeck_shared.wire import Wire

PACKAGES: tuple[ModuleType, ...] = (
    quarterdeck_shared,
    quarterdeck_agent,
    quarterdeck_controller,
)
LEFT_OUT = ("quarterdeck_controller.demo", "quarterdeck_controller.optimize")
"""What reads no message of another machine."""

MOMENT = "2026-11-01T12:00:00Z"
BYTES = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
TEXTS = (
    "cam-1",
    "ab" * 32,
    "ab" * 16,
    "model@1",
    "classes/cam/model-1.idx",
    "x",
    MOMENT,
    "AAAAAAAAAAAAAAAAAAAAAA==",
    "sha256:" + "ab" * 32,
)


def messages() -> tuple[type[Wire], ...]:
    """Return every kind of message and file that is JSON, so that none is forgotten."""
    for package in PACKAGES:
        for found in walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith(LEFT_OUT) and not found.name.endswith(
                "__main__"
            ):
                import_module(found.name)
    kinds = (it for it in _below(Wire) if not it.__module__.startswith(LEFT_OUT))
    return tuple(sorted(kinds, key=lambda it: (it.__module__, it.__name__)))


def examples(kind: type[Wire]) -> tuple[bytes, ...]:
    """Return good messages of ``kind``, or what is nearly one when none was found."""
    schema = kind.model_json_schema(by_alias=True)
    whole = _value(schema, schema.get("$defs", {}), required_only=False)
    least = _value(schema, schema.get("$defs", {}), required_only=True)
    made = []
    for value in (whole, least):
        try:
            made.append(kind.model_validate(value).encode())
        except ValidationError:
            made.append(repr(value).replace("'", '"').encode())
    return tuple(dict.fromkeys(made))


def _below(kind: type[Wire]) -> Iterator[type[Wire]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)


def _value(
    schema: dict[str, Any], known: dict[str, Any], *, required_only: bool
) -> object:
    """Return a value that ``schema`` may allow."""
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _value(schema[several][0], known, required_only=required_only)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if schema.get("type") == "object":
        return _object(schema, known, required_only=required_only)
    if schema.get("type") == "array":
        return _array(schema, known, required_only=required_only)
    return _plain(schema)


def _plain(schema: dict[str, Any]) -> object:
    match schema.get("type"):
        case "integer" | "number":
            return _number(schema)
        case "string":
            return _text(schema)
        case other:
            return other == "boolean" or None


def _object(
    schema: dict[str, Any], known: dict[str, Any], *, required_only: bool
) -> dict[str, object]:
    properties = schema.get("properties", {})
    wanted = schema.get("required", []) if required_only else properties
    return {
        name: _value(properties[name], known, required_only=required_only)
        for name in wanted
    }


def _array(
    schema: dict[str, Any], known: dict[str, Any], *, required_only: bool
) -> list[object]:
    if "prefixItems" in schema:
        given = schema["prefixItems"]
        return [_value(it, known, required_only=required_only) for it in given]
    count = max(schema.get("minItems", 0), 0 if required_only else 1)
    item = schema.get("items", {})
    return [_value(item, known, required_only=required_only)] * count


def _number(schema: dict[str, Any]) -> int | float:
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    most = schema.get("maximum", schema.get("exclusiveMaximum", least + 1))
    one: int | float = least + 1 if least + 1 <= most else least
    return one


def _text(schema: dict[str, Any]) -> str:
    if "format" in schema:
        return MOMENT if schema["format"] == "date-time" else BYTES
    pattern = schema.get("pattern", "")
    least, most = schema.get("minLength", 0), schema.get("maxLength", 1 << 20)
    fitting = (
        text
        for text in TEXTS
        if re.search(pattern, text) and least <= len(text) <= most
    )
    return next(fitting, "x" * least)
