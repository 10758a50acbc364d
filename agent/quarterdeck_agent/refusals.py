"""What the device refused, told to the controller in signed statements.

The newest statement is retained on ``up/refusal`` (PROTOCOL.md section 6). Whoever has
the broker can make a device refuse as often as he likes, so statements are few however
many refusals there are: each kind is told at once and then at most once a minute, with
the count of its repeats; all kinds together share an allowance; and what waits for the
broker to come back is bounded, the newest kept.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from quarterdeck_agent.identity.key import DeviceKey
from quarterdeck_shared import topics
from quarterdeck_shared.attack import Attack, looks_like
from quarterdeck_shared.bus.port import Bus
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import pae, sealed
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError
from quarterdeck_shared.patience import wait_at_most
from quarterdeck_shared.refusal import PAYLOAD_TYPE, Refusal

REPEAT_S = 60.0
"""The same is told again after this, if it happened again."""

ALLOWANCE, REFILL_S = 10, 6.0
"""Statements that may be made at once, and how long one more takes to be allowed."""

KINDS = 32
"""Kinds of refusals kept; past it the oldest is forgotten."""

_MAX_DETAIL = 300
_AGAIN_S, _KEY_AGAIN_S, _IDLE_S = 1.0, 60.0, 3600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the device has and runs, said beside each refusal.

    Attributes:
        sequence: Of the newest assignment that was accepted.
        active: Digest of the artifact that runs.
    """

    sequence: int = 0
    active: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """Refusals that are the same: one code, about the same bytes."""

    code: Code
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class _Noted:
    """One kind as it stands: the newest of it, and what was told of it.

    Attributes:
        untold: Times it happened since it was told last.
        told_s: When that was; None when it never was.
    """

    newest: Refusal
    untold: int
    told_s: float | None = None


class Ledger:
    """Decides what is told when. Pure but for what it remembers; bounded."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Kind, _Noted] = OrderedDict()
        self._allowed = float(ALLOWANCE)
        self._refilled_s: float | None = None

    def note(self, refusal: Refusal) -> None:
        """Remember one more refusal; its number and repeats are given when told."""
        kind = Kind(refusal.code, refusal.refused)
        before = self._kinds.pop(kind, None)
        untold = before.untold + 1 if before else 1
        told_s = before.told_s if before else None
        self._kinds[kind] = _Noted(refusal, untold, told_s)
        if len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)

    def due(self, now_s: float) -> Refusal | None:
        """Return what is to be told at ``now_s`` (monotonic), the oldest first."""
        if self._allowance(now_s) < 1:
            return None
        for noted in self._kinds.values():
            if noted.untold and _rested(noted, now_s):
                return noted.newest.model_copy(update={"repeats": noted.untold - 1})
        return None

    def told(self, refusal: Refusal, now_s: float) -> None:
        """Take note that what ``due`` returned was told."""
        self._allowed = self._allowance(now_s) - 1
        self._refilled_s = now_s
        kind = Kind(refusal.code, refusal.refused)
        noted = self._kinds.get(kind)
        if noted is not None:
            left = max(0, noted.untold - refusal.repeats - 1)
            self._kinds[kind] = replace(noted, untold=left, told_s=now_s)

    def wait_s(self, now_s: float) -> float:
        """Return how long nothing can become due by itself."""
        waits = [
            0.0 if noted.told_s is None else noted.told_s + REPEAT_S - now_s
            for noted in self._kinds.values()
            if noted.untold
        ]
        lacking = (1 - self._allowance(now_s)) * REFILL_S
        return max(0.0, lacking, min(waits, default=_IDLE_S))

    def _allowance(self, now_s: float) -> float:
        since = now_s - (now_s if self._refilled_s is None else self._refilled_s)
        return min(float(ALLOWANCE), self._allowed + since / REFILL_S)


def _rested(noted: _Noted, now_s: float) -> bool:
    return noted.told_s is None or now_s - noted.told_s >= REPEAT_S


class Refusals:
    """Signs and publishes what was refused. All methods are called on one loop.

    Args:
        key: Returns the key in force, which is renewed now and then; None without one.
        standing: Says what the device runs now.

    Attributes:
        newest: What was refused last in this run.
        count: Refusals of this run, repeats included.
    """

    def __init__(
        self,
        bus: Bus,
        device: str,
        boot: int,
        *,
        clock: Clock,
        key: Callable[[], DeviceKey | None],
        standing: Callable[[], Standing],
    ) -> None:
        self.newest: Refusal | None = None
        self.count = 0
        self._bus = bus
        self._device = device
        self._boot = boot
        self._clock = clock
        self._key = key
        self._standing = standing
        self._ledger = Ledger()
        self._number = 0
        self._keyless = False
        self._due = asyncio.Event()
        bus.on_connected(self._due.set)

    def note(
        self,
        code: Code,
        detail: str,
        *,
        attack: Attack | None = None,
        refused: str | None = None,
    ) -> None:
        """Have a refusal told.

        Args:
            code: The check that failed.
            detail: What was seen.
            attack: What it looks like, when the code alone does not say it.
            refused: Digest of the bytes that were refused, when it was one message.
        """
        standing = self._standing()
        self.count += 1
        self.newest = Refusal(
            device=self._device,
            boot=self._boot,
            number=0,
            at=self._clock.now(),
            code=code,
            attack=attack or looks_like(code),
            refused=refused,
            sequence=standing.sequence,
            active=standing.active,
            detail=detail[:_MAX_DETAIL],
        )
        self._ledger.note(self.newest)
        self._due.set()

    async def run(self) -> None:
        """Tell what is due until cancelled."""
        while True:
            pause = await self._tell_due() if self._bus.connected else _IDLE_S
            await wait_at_most(self._due, pause)
            self._due.clear()

    async def _tell_due(self) -> float:
        """Tell what is due now; return how long to wait for more."""
        while (due := self._ledger.due(self._clock.monotonic())) is not None:
            try:
                await self._tell(due)
            except TransientError as error:
                log.debug("a refusal waits: %s", error)
                return _AGAIN_S
            except QuarterdeckError as error:
                level = logging.DEBUG if self._keyless else logging.WARNING
                log.log(level, "refusals cannot be signed: %s", error)
                self._keyless = True
                return _KEY_AGAIN_S
        return self._ledger.wait_s(self._clock.monotonic())

    async def _tell(self, due: Refusal) -> None:
        key = self._key()
        if key is None:
            raise RejectedError(Code.NOT_ENROLLED, "there is no key to sign with")
        self._number += 1
        stated = due.model_copy(update={"number": self._number})
        envelope = await asyncio.to_thread(_signed, stated, key)
        topic = topics.up(self._device, topics.UP_REFUSAL)
        await self._bus.publish(topic, envelope, retain=True)
        self._ledger.told(due, self._clock.monotonic())
        self._keyless = False


def _signed(refusal: Refusal, key: DeviceKey) -> bytes:
    payload = refusal.encode()
    signature = key.sign(pae(PAYLOAD_TYPE, payload))
    return sealed(PAYLOAD_TYPE, payload, {key.key_id: signature})
