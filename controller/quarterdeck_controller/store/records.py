"""What the store keeps, as frozen values; nothing here knows about a database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from quarterdeck_shared.assignment import Probation, Target
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.refusal import Refusal
from quarterdeck_shared.reported import Reported
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.window import Window


class RolloutState(StrEnum):
    """Where a rollout stands; ``rollout/state.py`` has the transitions."""

    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    PROMOTED = "promoted"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the inventory.

    Attributes:
        enrolled_at: When it was entered; its first certificate may come later.
        seal_key: X25519 public key to which content keys are sealed.
        revoked_at: Since when it may not speak to the fleet; None when it may.
    """

    id: str
    device_class: str
    tags: tuple[str, ...]
    enrolled_at: datetime
    seal_key: bytes | None = None
    revoked_at: datetime | None = None
    revoked_why: str = ""


@dataclass(frozen=True, slots=True)
class Presence:
    """What is known of a device's session.

    Attributes:
        boot: That of the last birth; ``connection`` likewise.
        changed_at: When ``online`` last changed.
        former_boot: The boot before this one, with its last connection, so that
            two agents on one identity can be told from a restart.
        alternated_at: When a former boot last came back; None if never.
        client: MQTT client id of the session; empty when it was not told.
        generation: Of the certificate it came with; 0 when it was not told.
        returns: How often the former boot showed itself while this one was there.
    """

    device: str
    boot: int
    connection: int
    online: bool
    last_seen: datetime
    changed_at: datetime
    former_boot: int | None = None
    former_connection: int = 0
    alternated_at: datetime | None = None
    client: str = ""
    generation: int = 0
    returns: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A certificate with which machines may ask to be enrolled.

    Attributes:
        name: Its common name.
        serial: Its serial number, in hexadecimal.
    """

    name: str
    created_at: datetime
    expires_at: datetime
    serial: str


@dataclass(frozen=True, slots=True)
class Token:
    """Leave for one machine to become a device, once.

    Attributes:
        digest: Sha256 of the token, in hexadecimal; the token itself is not kept.
        serial: Of the certificate that was given for it; None before.
    """

    digest: str
    device: str
    claim: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    serial: str | None = None
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was issued to a device.

    Attributes:
        serial: In hexadecimal.
        generation: Counts the device's certificates from 1; in its subject too.
        public_key: SubjectPublicKeyInfo, DER.
        certificate: The whole of it, DER.
        used_at: When the device was first seen to have come with it.
        retired_at: When a later one was seen in use: it is not admitted any more, yet
            nothing speaks against it.
        revoked_at: When it was taken back.
    """

    serial: str
    device: str
    generation: int
    public_key: bytes
    not_before: datetime
    not_after: datetime
    certificate: bytes
    used_at: datetime | None = None
    retired_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_why: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The last reported state that was accepted from a device.

    Attributes:
        settled_at: When the outcome of its newest assignment last changed.
    """

    reported: Reported
    received_at: datetime
    settled_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """The few facts of a report that decisions need, cheap to read for a whole fleet.

    ``outcome``, ``code``, ``update_sequence`` and ``update_digest`` are those of the
    newest assignment the device told about.
    """

    device: str
    active_release: str | None
    active_digest: str | None
    previous_release: str | None
    previous_digest: str | None
    update_sequence: int
    update_digest: str | None
    outcome: str | None
    code: Code | None
    detail: str
    settled_at: datetime
    capabilities: Capabilities

    @property
    def in_probation(self) -> bool:
        """Whether what is active has not been committed yet."""
        return self.outcome == "pending" and self.update_digest == self.active_digest


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """A step that a device told about, and when it was heard."""

    device: str
    event: StepEvent
    received_at: datetime


@dataclass(frozen=True, slots=True)
class StoredRefusal:
    """Something that a device refused, and when it was heard."""

    refusal: Refusal
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Runs:
    """A release as it exists for one device class."""

    release: str
    target: Target


@dataclass(frozen=True, slots=True)
class Assigned:
    """An assignment as it was signed.

    Attributes:
        rollout: The rollout that asked for it; None for the operator's own.
        signed_by: Ids of the director's keys that signed it, joined by blanks.
        published: Whether the broker acknowledged it since it was last changed.
        withdrawn: Whether it was taken back before the device had begun it; the
            device then has no assignment.
    """

    device: str
    device_class: str
    sequence: int
    runs: Runs
    issued: datetime
    expires: datetime
    envelope: bytes
    reason: str
    probation: Probation
    rollout: int | None = None
    signed_by: str = ""
    published: bool = False
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as it stands.

    Attributes:
        selector: The cohort, as ``fleet/inventory.py`` reads it.
        policy: ``rollout/policy.py: Policy`` as JSON.
        wave: The wave it is in, from 0.
        revision: Rises with every change, so that a plan made on an older state is
            never applied.
        soak_from: When all of the wave's devices had settled; None before.
        looks: How often the gate has judged this wave.
        resumed_at: When an operator last resumed it: what failed before is excused.
        changed_at: When its state last changed.
        reason: Why it is in that state.
    """

    id: int
    release: str
    selector: str
    policy: str
    state: RolloutState
    created_at: datetime
    changed_at: datetime
    wave: int = 0
    revision: int = 0
    wave_started_at: datetime | None = None
    soak_from: datetime | None = None
    looks: int = 0
    resumed_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A device that a rollout has touched.

    Attributes:
        sequence: Of the assignment to the rollout's release.
        previous: What the device reported as active then; None when it had nothing.
        undo_sequence: Of the assignment back to ``previous``; None before.
    """

    rollout: int
    device: str
    wave: int
    target_digest: str
    sequence: int
    assigned_at: datetime
    previous: Runs | None = None
    undo_sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Something that was decided, and why."""

    at: datetime
    what: str
    reason: str
    rollout: int | None = None
    numbers: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """A telemetry window and who sent it."""

    device: str
    window: Window


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of many windows of one device and one artifact, added up.

    Attributes:
        artifact: First 16 hex digits of the artifact's digest.
        latency: Of every window, merged.
        last: Start of the newest window.
    """

    device: str
    artifact: str
    windows: int
    requests: int
    errors: int
    dropped: int
    golden_total: int
    golden_ok: int
    label_total: int
    label_ok: int
    restarts: int
    rss_mb: int
    last: datetime
    latency: Sketch
