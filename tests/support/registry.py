"""A store and an authority without a broker: machines are invited, enrol and renew."""

import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from quarterdeck_agent.identity.token import asked_with
from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.identity import enrolment, renewal
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.enrolment import EnrolmentServer
from quarterdeck_controller.identity.renewal import RenewalServer
from quarterdeck_controller.identity.tokens import VALID, Invitation, invite
from quarterdeck_controller.store.records import Assigned, Certificate, Presence, Runs
from quarterdeck_controller.store.store import Store
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import Probation, Target
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CertificateReply, EnrolRequest, RenewalRequest
from quarterdeck_shared.errors import TransientError
from tests.support.identities import new_key, request
from tests.support.releases import ManualClock

CLASS = "cam"
Key = ec.EllipticCurvePrivateKey


@dataclass
class Registry:
    """One controller's halves of enrolment and renewal, asked directly."""

    store: Store
    authority: Authority
    clock: ManualClock
    bus: MemoryBus
    enrolling: EnrolmentServer
    renewing: RenewalServer
    heard: dict[str, CertificateReply] = field(default_factory=dict)
    admitted: list[int] = field(default_factory=list)
    broker_is_away: list[bool] = field(default_factory=list)

    @classmethod
    async def open(cls, folder: Path, *, days: float = 30) -> Self:
        """Return a registry in ``folder``."""
        clock = ManualClock()
        store = Store.open(folder / "db")
        authority = Authority.create(folder / "authority", "test", clock)
        bus = MemoryBus(MemoryBroker(), "controller")
        admitted: list[int] = []
        away: list[bool] = []

        async def admit() -> None:
            if away:
                raise TransientError(Code.TIMED_OUT, "the broker does not answer")
            with store.read() as records:
                admitted.append(len(records.certificates.live(clock.now())))

        registry = cls(
            store,
            authority,
            clock,
            bus,
            EnrolmentServer(bus, store, authority, clock, days=days, admit=admit),
            RenewalServer(bus, store, authority, clock, days=days, admit=admit),
            admitted=admitted,
            broker_is_away=away,
        )
        await bus.start()
        await bus.wait_connected(5)
        await bus.subscribe(f"{topics.ROOT}/#", registry._hear)
        return registry

    def _hear(self, message: Message) -> None:
        self.heard[message.topic] = CertificateReply.decode(message.payload)

    async def close(self) -> None:
        """Close everything."""
        await self.bus.close()
        self.store.close()

    def enter(self, *devices: str, valid: timedelta = VALID) -> tuple[Invitation, ...]:
        """Enter new devices, and invite them together."""
        now = self.clock.now()
        with self.store.write() as records:
            entered = [enrol(records, it, CLASS, now=now) for it in devices]
            return invite(records, self.authority, entered, now=now, valid=valid)

    def invite(self, device: str) -> Invitation:
        """Invite a device that is there already."""
        now = self.clock.now()
        with self.store.write() as records:
            known = records.devices.get(device)
            assert known is not None
            (invitation,) = invite(records, self.authority, [known], now=now)
        return invitation

    async def enrol(
        self, invitation: Invitation, key: Key, *, device: str = "", **changed: object
    ) -> CertificateReply:
        """Return the answer to a machine that asks with ``invitation`` and ``key``."""
        named = device or invitation.device
        token = str(changed.pop("token", invitation.token))
        asked = {"device": named, "csr": request(named, key), **changed}
        payload = asked_with(token, EnrolRequest.model_validate(asked))
        return await self.ask(invitation.claim, payload)

    async def ask(self, claim: str, payload: bytes) -> CertificateReply:
        """Return the answer to ``payload``."""
        nonce = secrets.token_hex(8)
        await self.enrolling.answer([enrolment.Asked(claim, nonce, payload)])
        return self.heard[topics.enrol_reply(claim, nonce)]

    async def renew(self, device: str, csr: bytes) -> CertificateReply:
        """Return the answer to a device that asks for its next certificate."""
        payload = RenewalRequest(id=secrets.randbits(53), csr=csr).encode()
        await self.renewing.answer([renewal.Asked(device, payload)])
        return self.heard[topics.down(device, topics.DOWN_CERTIFICATE)]

    async def enrolled(self, device: str) -> Key:
        """Return the key of a new device, enrolled and seen to have come."""
        key = new_key()
        (invitation,) = self.enter(device)
        reply = await self.enrol(invitation, key)
        assert reply.chain is not None
        self.comes(device, 1)
        return key

    def comes(
        self,
        device: str,
        generation: int,
        client: str = "secret",
        *,
        settled: bool = True,
    ) -> None:
        """Have the device be online with its certificate of that generation.

        ``settled``: and have the controller have drawn its conclusions from that.
        """
        now = self.clock.now()
        session = Presence(
            device=device,
            boot=1,
            connection=1,
            online=True,
            last_seen=now,
            changed_at=now,
            client=client,
            generation=generation,
        )
        with self.store.write() as records:
            records.presence.put([session])
            if settled:
                records.certificates.settle(now)

    def assign(self, device: str) -> None:
        """Have something be assigned to ``device``."""
        now = self.clock.now()
        target = Target(path="classes/cam/m-1.idx", length=1, sha256="0" * 64)
        assigned = Assigned(
            device=device,
            device_class=CLASS,
            sequence=1,
            runs=Runs("m@1", target),
            issued=now,
            expires=now + timedelta(days=14),
            envelope=b"an assignment",
            reason="",
            probation=Probation(),
        )
        with self.store.write() as records:
            records.assignments.add([assigned])

    def certificates(self, device: str) -> tuple[Certificate, ...]:
        """Return the certificates of ``device``, newest first."""
        with self.store.read() as records:
            return records.certificates.of(device)

    def live(self, device: str) -> list[int]:
        """Return the generations that let ``device`` in."""
        with self.store.read() as records:
            live = records.certificates.live(self.clock.now())
        return [it.generation for it in live if it.device == device]
