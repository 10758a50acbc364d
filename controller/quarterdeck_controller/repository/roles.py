"""The TUF roles of a fleet: which keys sign them, and for how long."""

from datetime import timedelta
from types import MappingProxyType

from quarterdeck_shared.assignment import DIRECTOR_ROLE
from quarterdeck_shared.signed_time import TIME_ROLE

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
DIRECTOR, TIME, PROVENANCE = DIRECTOR_ROLE, TIME_ROLE, "provenance"

KEY_ROLES = (DIRECTOR, TIME, PROVENANCE)
"""Roles that list no target: TUF carries their keys, thresholds and revocations, and
they sign statements of their own (assignments, the time, provenance)."""

ONLINE = (SNAPSHOT, TIMESTAMP, DIRECTOR, TIME)
"""Roles whose keys are on the controller. The others' belong elsewhere."""

ROOT_KEYS = ("root-1", "root-2", "root-3")
ROOT_THRESHOLD = 2

ISSUED_FIELD = "x-issued"
"""Signed field of the timestamp role: when it was signed. Devices that have no clock
raise their idea of the time by it, and by nothing else."""

NAME_FIELD = "x-name"
"""Signed field of a key: what its holder calls it."""

_CLASS_PREFIX = "class-"
_KEY_ROLE_PATHS = MappingProxyType(
    {DIRECTOR: "assignments/*", TIME: "time/*", PROVENANCE: "provenance/*"}
)
_LIFETIMES = MappingProxyType(
    {
        ROOT: timedelta(days=365),
        TARGETS: timedelta(days=180),
        DIRECTOR: timedelta(days=90),
        TIME: timedelta(days=90),
        PROVENANCE: timedelta(days=365),  # lists nothing; targets carries its keys
        SNAPSHOT: timedelta(days=7),
        TIMESTAMP: timedelta(days=1),
    }
)
_CLASS_LIFETIME = timedelta(days=90)


def class_role(device_class: str) -> str:
    """Return the role that signs what ``device_class`` may run."""
    return _CLASS_PREFIX + device_class


def role_class(role: str) -> str | None:
    """Return the device class whose role this is, or None for another role."""
    return role.removeprefix(_CLASS_PREFIX) if role.startswith(_CLASS_PREFIX) else None


def pattern(role: str) -> str:
    """Return the target paths that a role delegated by targets may list.

    Those of key roles match no target: TUF carries their keys, and they list nothing.
    """
    device_class = role_class(role)
    if device_class is not None:
        return f"classes/{device_class}/*"
    return _KEY_ROLE_PATHS[role]


def is_delegated(role: str) -> bool:
    """Return whether targets names the role's keys, and not root."""
    return role in KEY_ROLES or role_class(role) is not None


def lifetime(role: str) -> timedelta:
    """Return how long a signature of ``role`` is valid."""
    return _LIFETIMES.get(role, _CLASS_LIFETIME)


def key_names(role: str) -> tuple[str, ...]:
    """Return the names of the keys that a new test fleet makes for ``role``."""
    return ROOT_KEYS if role == ROOT else (role,)
