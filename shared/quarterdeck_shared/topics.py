"""Every topic there is. Nowhere else does a topic's "/" appear.

PROTOCOL.md section 2 is the table of these topics: who publishes, who reads,
which are retained. Broker permissions are generated from ``device_publishes``,
``device_subscribes`` and their likes for claims, so what anybody may do is written
here once.
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
UP_CERTIFICATE = "certificate"
UP_REFUSAL = "refusal"

UP_LEAVES = (
    UP_STATE,
    UP_REPORTED,
    UP_EVENT,
    UP_TELEMETRY,
    UP_METADATA,
    UP_NEED,
    UP_CERTIFICATE,
    UP_REFUSAL,
)
"""All that a device publishes. Permissions name each: a device that could publish
under any name could have the broker keep any number of retained messages."""

UP_RETAINED = (UP_STATE, UP_REPORTED, UP_REFUSAL)
"""What the broker keeps of a device, and what goes with it."""

DOWN_ASSIGNMENT = "assignment"
DOWN_METADATA = "metadata"
DOWN_ACK = "ack"
DOWN_REBIRTH = "rebirth"
DOWN_CERTIFICATE = "certificate"


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


@dataclass(frozen=True, slots=True)
class EnrolTopic:
    """The topic of a request to be enrolled, taken apart.

    Attributes:
        claim: Name of the claim certificate, which the broker has checked.
        nonce: Drawn by the device, so that many may share one claim.
    """

    claim: str
    nonce: str


def enrol_request(claim: str, nonce: str) -> str:
    """Return the topic on which the holder of ``claim`` asks to be enrolled."""
    return f"{ROOT}/enrol/{_checked(claim)}/{_checked(nonce)}/request"


def enrol_reply(claim: str, nonce: str) -> str:
    """Return the topic on which that request is answered."""
    return f"{ROOT}/enrol/{_checked(claim)}/{_checked(nonce)}/reply"


def enrol_any() -> str:
    """Return the controller's filter of every request to be enrolled."""
    return f"{ROOT}/enrol/+/+/request"


def parse_enrol(topic: str) -> EnrolTopic | None:
    """Return who asks to be enrolled, or None for a topic of another form."""
    match topic.split("/"):
        case ["qd", "1", "enrol", claim, nonce, "request"] if is_name(
            claim
        ) and is_name(nonce):
            return EnrolTopic(claim, nonce)
        case _:
            return None


def leaf(topic: str) -> str:
    """Return the last level of ``topic``."""
    return topic.rpartition("/")[2]


def device_publishes(device: str) -> tuple[str, ...]:
    """Return the filters that ``device``, and only it, may publish to."""
    return tuple(up(device, leaf) for leaf in UP_LEAVES)


def device_subscribes(device: str, device_class: str) -> tuple[str, ...]:
    """Return the filters that ``device`` may read."""
    return (
        down_all(device),
        chunks_any(device_class),
        CONTROLLER_STATE,
        METADATA_TIMESTAMP,
    )


def claim_publishes(claim: str) -> tuple[str, ...]:
    """Return the filters that the holders of ``claim`` may publish to."""
    return (f"{ROOT}/enrol/{_checked(claim)}/+/request",)


def claim_subscribes(claim: str) -> tuple[str, ...]:
    """Return the filters that the holders of ``claim`` may read."""
    return (f"{ROOT}/enrol/{_checked(claim)}/+/reply",)


def _checked(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"{name!r} may not be a topic level")
    return name
