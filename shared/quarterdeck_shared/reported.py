"""What a device says of itself: session state and reported state.

Both are retained, one per device, so that a controller that starts late needs one
read (PROTOCOL.md section 3).
"""

from typing import Literal

from pydantic import AwareDatetime, Field

from quarterdeck_shared.assignment import MAX_SEQUENCE
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.ids import ClassName, DeviceId, ReleaseId, Sha256
from quarterdeck_shared.wire import Wire


class SessionState(Wire):
    """A device's or controller's birth (online) or will (offline).

    Attributes:
        boot: Drawn anew at every start of the process.
        connection: Rises with every connection of that boot. A will whose boot and
            connection are not those of the last birth is stale and ignored.
        client: The MQTT client id of a device's session: a secret between it and the
            controller, who can end the session by it. The controller's own state,
            which everybody reads, leaves it empty.
        generation: Of the certificate with which a device came: its subject's serial
            number. It tells the controller that a new one is in use, so that the ones
            before can be retired. 0 says nothing.
    """

    v: Literal[1] = 1
    online: bool
    boot: int = Field(ge=0, lt=1 << 53)
    connection: int = Field(ge=0, lt=1 << 53)
    client: str = Field(default="", max_length=64, pattern="^[0-9A-Za-z-]*$")
    generation: int = Field(default=0, ge=0, lt=1 << 31)


class Slot(Wire):
    """A model that is on the device."""

    digest: Sha256
    release: ReleaseId


class Quarantined(Wire):
    """An artifact this device refuses, and why."""

    digest: Sha256
    code: Code


class LastUpdate(Wire):
    """How the newest assignment stands.

    Attributes:
        outcome: ``pending`` while it is carried out; ``committed``; ``rolled_back``
            when it was installed, failed and was undone; ``refused`` when it was
            never installed; ``deferred`` while something transient stands in the way.
        received_bytes: Bytes of chunks received for it over the network.
        duplicate_bytes: Bytes of chunks received that were already there.
    """

    sequence: int = Field(ge=0, le=MAX_SEQUENCE)
    digest: Sha256 | None = None
    outcome: Literal["pending", "committed", "rolled_back", "refused", "deferred"]
    code: Code | None = None
    detail: str = Field(default="", max_length=300)
    received_bytes: int = Field(default=0, ge=0)
    duplicate_bytes: int = Field(default=0, ge=0)


class Reported(Wire):
    """The device's whole state; the digest it reports is the truth.

    Attributes:
        state: The update machine's state.
        sequence: The newest assignment that was accepted as authentic.
        step: Steps the update machine has taken since the state was first made; a
            report with a lower step than one seen is stale.
    """

    v: Literal[1] = 1
    device: DeviceId
    device_class: ClassName
    agent: str = Field(max_length=32)
    boot: int = Field(ge=0, lt=1 << 53)
    at: AwareDatetime
    state: str = Field(max_length=32)
    step: int = Field(ge=0, lt=1 << 53)
    sequence: int = Field(ge=0, le=MAX_SEQUENCE)
    active: Slot | None = None
    previous: Slot | None = None
    staged: Slot | None = None
    update: LastUpdate | None = None
    quarantine: tuple[Quarantined, ...] = Field(default=(), max_length=64)
    capabilities: Capabilities
