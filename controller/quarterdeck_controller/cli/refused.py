"""What a device refused, added up for people and for ``--json``."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from quarterdeck_controller.cli.opened import ago
from quarterdeck_controller.cli.output import out, print_table
from quarterdeck_controller.store.records import StoredRefusal
from quarterdeck_shared.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Sum:
    """Refusals of one code that look the same.

    Attributes:
        times: How often, repeats included.
        newest: The last of them.
        first: When the device made the first of those that are kept.
    """

    times: int
    newest: Refusal
    first: datetime


def summed(newest_first: Iterable[StoredRefusal]) -> tuple[Sum, ...]:
    """Return one sum for each code and suspicion, the most recent first."""
    sums: dict[tuple[str, str | None], Sum] = {}
    for stored in newest_first:
        it = stored.refusal
        kind = (it.code, it.attack)
        before = sums.get(kind) or Sum(0, it, it.at)
        sums[kind] = Sum(before.times + 1 + it.repeats, before.newest, it.at)
    return tuple(sums.values())


def refusals_json(newest_first: Iterable[StoredRefusal]) -> list[dict[str, object]]:
    """Return the sums as JSON has them."""
    return [
        {
            "code": str(it.newest.code),
            "attack": None if it.newest.attack is None else str(it.newest.attack),
            "times": it.times,
            "first": it.first.isoformat(timespec="seconds"),
            "last": it.newest.at.isoformat(timespec="seconds"),
            "detail": it.newest.detail,
            "refused": it.newest.refused,
            "active": it.newest.active,
            "remedy": it.newest.code.remedy,
        }
        for it in summed(newest_first)
    ]


def print_refusals(newest_first: Iterable[StoredRefusal], now: datetime) -> None:
    """Print the sums as a table, and what to do about the newest."""
    sums = summed(newest_first)
    if not sums:
        return
    out.print("\nRefused, in the device's own signed words:")
    print_table(
        ("refused", "looks like", "times", "last", "detail"),
        [
            (
                it.newest.code,
                it.newest.attack or "no attack",
                it.times,
                ago(it.newest.at, now),
                it.newest.detail,
            )
            for it in sums
        ],
    )
    out.print(sums[0].newest.code.remedy, markup=False)
