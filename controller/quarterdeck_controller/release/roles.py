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

_CLASS_PREFIX = "class-"
_LIFETIMES = MappingProxyType(
    {
        ROOT: timedelta(days=365),
        TARGETS: timedelta(days=180),
        DIRECTOR: timedelta(days=90),
        TIME: timedelta(days=90),
        PROVENANCE: timedelta(days=90),
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


def class_pattern(device_class: str) -> str:
    """Return the target paths that the class's role may list."""
    return f"classes/{device_class}/*"


def lifetime(role: str) -> timedelta:
    """Return how long a signature of ``role`` is valid."""
    return _LIFETIMES.get(role, _CLASS_LIFETIME)


def key_names(role: str) -> tuple[str, ...]:
    """Return the names of the keys that may sign for ``role``."""
    return ROOT_KEYS if role == ROOT else (role,)


def threshold(role: str) -> int:
    """Return how many of the role's keys must sign."""
    return ROOT_THRESHOLD if role == ROOT else 1
