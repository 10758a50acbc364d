"""Keeps the device who it is: enrols it, renews its certificate, says how it stands.

Whatever happens here, the device goes on serving its model: trouble is reported, tried
again, and never raised. Each turn looks at what is on the disk and on the bus, decides
(``plan.py``) and takes one step; a crash between any two is like a start.
"""

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass, replace

from quarterdeck_agent.identity import renew
from quarterdeck_agent.identity.describe import describe
from quarterdeck_agent.identity.enrol import Connect, Enrolment, finish, read_token
from quarterdeck_agent.identity.files import Identity, IdentityFiles
from quarterdeck_agent.identity.key import DeviceKey
from quarterdeck_agent.identity.plan import Plan, Rng, Step, View, plan, wait_s
from quarterdeck_agent.identity.provider import has_provider
from quarterdeck_agent.identity.standing import IdentityStanding
from quarterdeck_agent.settings import Settings
from quarterdeck_shared.bus.port import Bus
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError

LOOK_S = 2.0
"""How often the files are looked at: a token may be put there at any time."""
PACE_S = 1.0
"""Shortest wait after a step that went well."""
SETTLE_S = 60.0
"""So long a new certificate is used before the next one is asked for, however short its
life: the controller has to see it in use before it retires the ones before."""
TRIES = 20
"""So often a new certificate may be turned away before another is asked for."""

_UNWANTED = frozenset({Code.BROKER_REFUSED, Code.CERTIFICATE_INVALID})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """What is on the disk, and what is wrong with it."""

    used: Identity | None = None
    new: Identity | None = None
    token: str = ""
    trouble: QuarterdeckError | None = None


class Keeper:
    """The identity of a running agent. It starts ``bus`` once there is one.

    Args:
        bus: The device's session, over the identity's file; not started.
        connect: Makes sessions beside it: of the claim, and to try a certificate.

    Attributes:
        must_begin_anew: The new key is in the TPM, which this process cannot use.
    """

    def __init__(
        self, settings: Settings, bus: Bus, clock: Clock, rng: Rng, *, connect: Connect
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._connect = connect
        self._files = IdentityFiles(settings)
        self._held = _Held()
        self._trouble: QuarterdeckError | None = None
        self._failures = 0
        self._turned_away = 0
        self._not_before = 0.0
        self._settled_at = 0.0
        self.must_begin_anew = False
        self._asked_with = ""
        self._started = False
        self._seen: object = None

    @property
    def key(self) -> DeviceKey | None:
        """The private key of the certificate in use; None without one."""
        return self._held.used.key if self._held.used else None

    def signing_key(self) -> DeviceKey:
        """Return the private key of the certificate in use.

        Raises:
            RejectedError: ``NOT_ENROLLED``.
        """
        if self.key is None:
            raise RejectedError(Code.NOT_ENROLLED, "nothing can be signed yet")
        return self.key

    @property
    def generation(self) -> int:
        """Which of the device's certificates is in use; 0 for none."""
        used = self._held.used
        return used.certificate.generation if used else 0

    @property
    def standing(self) -> IdentityStanding:
        """How the identity stands."""
        held = self._held
        return describe(
            self._settings,
            held.used,
            new=held.new is not None,
            trouble=self._trouble or held.trouble,
        )

    async def run(self) -> None:
        """Keep the identity until cancelled, or until ``must_begin_anew``."""
        while not self.must_begin_anew:
            await self._turn()

    async def load(self) -> None:
        """Look at what is on the disk, if it has changed."""
        seen = self._files.fingerprint()
        if seen != self._seen or self._held.trouble is not None:
            self._held = await asyncio.to_thread(self._look)
            self._seen = seen

    async def _turn(self) -> None:
        await self.load()
        if self._held.used is not None and not self._started:
            self._started = True
            await self._bus.start()
        now = self._clock.now()
        chosen = plan(self._view(), now)
        if chosen.step is Step.REST:
            self._rest(chosen)
            due = chosen.until
            left_s = LOOK_S if due is None else (due - now).total_seconds()
            await asyncio.sleep(min(LOOK_S, max(PACE_S, left_s)))
        elif (wait := self._wait_s(chosen.step)) > 0:
            await asyncio.sleep(min(LOOK_S, wait))
        else:
            await self._take(chosen.step)

    def _wait_s(self, step: Step) -> float:
        """Return how long to wait before ``step``; a new token is tried at once."""
        if step is Step.ENROL and self._held.token != self._asked_with:
            return 0
        begin = self._not_before
        if step is Step.RENEW:
            begin = max(begin, self._settled_at)
        return begin - self._clock.monotonic()

    def _rest(self, chosen: Plan) -> None:
        trouble = self._held.trouble
        if trouble is None and chosen.code is not None:
            trouble = RejectedError(chosen.code, chosen.detail)
        if trouble is None and self._unwanted():
            trouble = self._bus.trouble
        if trouble is not None or self._bus.connected:
            self._note(trouble)

    async def _take(self, step: Step) -> None:
        try:
            match step:
                case Step.TRY:
                    await self._try_new()
                case Step.ENROL:
                    await self._enrol()
                case Step.RENEW:
                    await self._renew()
                case Step.REST:
                    pass
        except QuarterdeckError as error:
            self._failed(step, error)
        else:
            self._failures = 0
            self._note(None)
            await asyncio.sleep(PACE_S)

    async def _enrol(self) -> None:
        self._asked_with = self._held.token
        if has_provider(self._settings, os.environ):
            detail = "the TPM's provider is loaded: stop the agent, then enrol --again"
            raise RejectedError(Code.KEY_UNUSABLE, detail)
        enrolment = Enrolment(
            self._settings, self._files, self._clock, self._rng, connect=self._connect
        )
        certificate = await enrolment.run(self._held.token)
        log.info("enrolled until %s", certificate.ends)
        await self._switch()

    async def _renew(self) -> None:
        key = self.signing_key()
        if (outside := self._files.outside) is not None:
            detail = (
                f"the key {outside} stays elsewhere, and none is certified twice: put "
                "another there, then quarterdeck-agent enrol --again with a new token"
            )
            raise RejectedError(Code.NOT_ALLOWED, detail)
        await renew.ask(self._bus, self._settings, self._files, tpm=key.in_tpm)

    async def _try_new(self) -> None:
        new, used = self._held.new, self._held.used
        assert new is not None
        if used is None:  # nothing to lose: it came of an enrolment
            await asyncio.to_thread(finish, self._settings, self._files)
        else:
            await renew.is_let_in(self._settings, new, self._connect)
            await asyncio.to_thread(self._files.promote)
        self._turned_away = 0
        log.info("certificate %d in use", new.certificate.generation)
        await self._switch()

    async def _switch(self) -> None:
        """Have the session be of the certificate that is now in use."""
        await self.load()
        used = self._held.used
        if used is not None and used.key.in_tpm:
            self.must_begin_anew = not has_provider(self._settings, os.environ)
        if used is not None:
            settles_s = min(SETTLE_S, used.certificate.life.total_seconds() / 20)
            self._settled_at = self._clock.monotonic() + settles_s
        await self._bus.reconnect()

    def _failed(self, step: Step, error: QuarterdeckError) -> None:
        self._failures += 1
        if step is Step.TRY:
            self._turned_away += 1
            if self._turned_away >= TRIES:
                self._turned_away = 0
                self._files.drop_new()
        elif error.code is Code.REQUEST_UNPROVEN:
            self._files.drop_new()  # another key may do
        refused = isinstance(error, RejectedError) and not _may_end(step, error)
        waits = wait_s(self._failures, refused=refused, rng=self._rng)
        self._not_before = self._clock.monotonic() + waits
        self._note(error)

    def _note(self, trouble: QuarterdeckError | None) -> None:
        before, self._trouble = self._trouble, trouble
        if trouble is not None:
            again = before is not None and before.code is trouble.code
            level = logging.DEBUG if again else logging.WARNING
            log.log(level, "event=identity_trouble %s", trouble)
        elif before is not None:
            log.info("event=identity_well: the identity is well again")

    def _unwanted(self) -> bool:
        """Return whether the broker does not want the certificate in use."""
        trouble = self._bus.trouble
        return trouble is not None and trouble.code in _UNWANTED

    def _view(self) -> View:
        held = self._held
        return View(
            used=held.used.certificate if held.used else None,
            new=held.new.certificate if held.new else None,
            token=bool(held.token),
            connected=self._bus.connected,
            refused=self._unwanted(),
        )

    def _look(self) -> _Held:
        held = _Held()
        try:
            held = replace(held, used=self._files.load())
        except QuarterdeckError as error:
            held = replace(held, trouble=error)
        try:
            held = replace(held, new=self._files.load_new())
        except QuarterdeckError as error:
            log.warning("the new certificate is forgotten: %s", error)
            self._files.drop_new()
        with contextlib.suppress(RejectedError):
            token = read_token(self._settings.enrolment.token) or ""
            held = replace(held, token=token)
        return held


def _may_end(step: Step, error: RejectedError) -> bool:
    """Return whether a refusal may end without a person."""
    return step is Step.TRY or error.code is Code.REQUEST_UNPROVEN
