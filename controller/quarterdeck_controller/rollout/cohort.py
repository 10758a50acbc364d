"""Who is in a rollout, and in which order they come (pure).

The order is fixed by a hash of device and rollout, so that planning again gives the
same answer and no device is always the first to try. Devices that are online come
before those that are not, since a canary that is switched off tells nothing. Classes
take turns: the first device of every class comes before the second of any, then each
class advances in proportion to its size.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quarterdeck_controller.rollout.view import DeviceView
from quarterdeck_controller.store.records import Runs


@dataclass(frozen=True, slots=True)
class Sorted:
    """The cohort, sorted out.

    Attributes:
        touched: Devices that have an assignment of this rollout.
        already: Devices that run the release without our doing.
        waiting: Devices still to come, in order.
        refused: Devices that are left out, with the reason.
    """

    touched: tuple[DeviceView, ...]
    already: tuple[DeviceView, ...]
    waiting: tuple[DeviceView, ...]
    refused: tuple[tuple[str, str], ...]

    @property
    def total(self) -> int:
        """Devices that waves are a share of."""
        return len(self.touched) + len(self.waiting)


def sort(
    rollout: int,
    release: str,
    variants: Mapping[str, Runs],
    fleet: Sequence[DeviceView],
) -> Sorted:
    """Sort ``fleet`` out for ``rollout``."""
    touched = tuple(view for view in fleet if view.member is not None)
    refused, already, candidates = [], [], []
    for view in fleet:
        if view.member is not None:
            continue
        reason = _refusal(view, release, variants)
        if reason is not None:
            refused.append((view.id, reason))
        elif view.active == variants[view.device_class].target.sha256 and (
            view.desired in (None, view.active)
        ):
            already.append(view)
        else:
            candidates.append(view)
    return Sorted(
        touched, tuple(already), _order(rollout, touched, candidates), tuple(refused)
    )


def _refusal(
    view: DeviceView, release: str, variants: Mapping[str, Runs]
) -> str | None:
    if view.device_class not in variants:
        return f"{release} has no variant for class {view.device_class}"
    if view.held_by is not None:
        return f"rollout {view.held_by} has it and has not ended"
    if view.lacking is not None:
        return f"{release} {view.lacking}"
    return None


def _order(
    rollout: int, touched: Sequence[DeviceView], candidates: Sequence[DeviceView]
) -> tuple[DeviceView, ...]:
    ahead: dict[str, int] = defaultdict(int)
    for view in touched:
        ahead[view.device_class] += 1
    by_class: dict[str, list[tuple[bool, bytes, DeviceView]]] = defaultdict(list)
    for view in candidates:
        key = hashlib.sha256(f"{rollout}/{view.id}".encode()).digest()
        by_class[view.device_class].append((view.online_since is None, key, view))
    placed = []
    for name, members in by_class.items():
        members.sort(key=lambda entry: entry[:2])
        size = ahead[name] + len(members)
        for rank, (away, key, view) in enumerate(members, start=ahead[name]):
            placed.append((away, rank > 0, (rank + 0.5) / size, key, view))
    placed.sort(key=lambda entry: entry[:4])
    return tuple(view for *_, view in placed)
