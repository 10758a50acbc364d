"""What a file that people write has wrong, in words they can act on."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

MOST = 3
SHOWN = 60


def explain(error: ValidationError) -> str:
    """Return what is wrong and where, at most three faults of it.

    A misspelt key shows as one that is missing and one that is unknown: only both
    together tell what happened.
    """
    found = error.errors(include_url=False, include_context=False)
    told = [_fault(one) for one in found[:MOST]]
    more = len(found) - MOST
    return "; ".join([*told, *([f"and {more} more"] if more > 0 else [])])


def _fault(one: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in one["loc"]) or "the whole"
    if one["type"] == "missing":
        return f"{where} is missing"
    if one["type"] == "extra_forbidden":
        return f"{where} is no setting"
    return f"{where}: {one['msg']}, got {one['input']!r:.{SHOWN}}"
