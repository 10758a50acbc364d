"""Every topic there is. Nowhere else does a topic's "/" appear.

PROTOCOL.md section 2 is the table of these topics: who publishes, who reads,
which are retained. Broker permissions are generated from ``device_publishes`` and
``device_subscribes``, so what a device may do is written here once.
"""

from dataclasses import dataclass

from quarterdeck_shared.ids import is_name

ROOT = "qd/1"
"""The protocol's version is part of every topic."""

CONTROLLER_STATE = f"{ROOT}/controller/state"
"""Retained: the controller's birth and will."""

METADATA_TIMESTAMP = f"{ROOT}/metadata/timestamp"
"""Retained: the newest signed timestamp role, the push that wakes a refresh."""

UP_STATE = "state"
UP_REPORTED = "reported"
UP_EVENT = "event"
UP_TELEMETRY = "telemetry"
UP_METADATA = "metadata"
UP_NEED = "need"

DOWN_ASSIGNMENT = "assignment"
DOWN_METADATA = "metadata"
DOWN_ACK = "ack"
DOWN_REBIRTH = "rebirth"


def up(device: str, leaf: str) -> str:
    """Return the topic on which ``device`` publishes ``leaf``."""
    return f"{ROOT}/device/{_checked(device)}/up/{leaf}"


def down(device: str, leaf: str) -> str:
    """Return the topic on which ``device`` hears ``leaf``."""
    return f"{ROOT}/device/{_checked(device)}/down/{leaf}"


def down_all(device: str) -> str:
    """Return the filter of all that is addressed to ``device``."""
    return f"{ROOT}/device/{_checked(device)}/down/#"


def up_any(leaf: str) -> str:
    """Return the controller's filter for ``leaf`` of every device."""
    return f"{ROOT}/device/+/up/{leaf}"


def chunks(device_class: str, artifact: str) -> str:
    """Return the topic on which an artifact's chunks are broadcast to its class."""
    return f"{ROOT}/class/{_checked(device_class)}/chunk/{artifact}"


def chunks_any(device_class: str) -> str:
    """Return the filter of every chunk for ``device_class``."""
    return f"{ROOT}/class/{_checked(device_class)}/chunk/+"


@dataclass(frozen=True, slots=True)
class UpTopic:
    """A device's topic, taken apart."""

    device: str
    leaf: str


def parse_up(topic: str) -> UpTopic | None:
    """Return which device published what, or None for a topic of another form."""
    parts = topic.split("/")
    match parts:
        case ["qd", "1", "device", device, "up", leaf] if is_name(device):
            return UpTopic(device, leaf)
        case _:
            return None


def leaf(topic: str) -> str:
    """Return the last level of ``topic``."""
    return topic.rpartition("/")[2]


def device_publishes(device: str) -> tuple[str, ...]:
    """Return the filters that ``device``, and only it, may publish to."""
    return (f"{ROOT}/device/{_checked(device)}/up/#",)


def device_subscribes(device: str, device_class: str) -> tuple[str, ...]:
    """Return the filters that ``device`` may read."""
    return (
        down_all(device),
        chunks_any(device_class),
        CONTROLLER_STATE,
        METADATA_TIMESTAMP,
    )


def _checked(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"{name!r} may not be a topic level")
    return name
