"""Plan and carry out every active rollout, again and again, from what is stored.

Nothing is remembered between two rounds: the operator's words, what devices reported
and what was decided before are all in the store, so a process that was killed goes
on where it was when it is started again.
"""

import asyncio
import logging
from datetime import datetime

from quarterdeck_controller.fleet.assignments import Assignments
from quarterdeck_controller.rollout.catalog import CatalogPort
from quarterdeck_controller.rollout.execute import carry_out
from quarterdeck_controller.rollout.observe import observe
from quarterdeck_controller.rollout.plan import Plan, plan
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.revoked import enforce
from quarterdeck_controller.rollout.state import ACTIVE
from quarterdeck_controller.store.records import Rollout
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import QuarterdeckError
from quarterdeck_shared.patience import wait_at_most

TICK_S = 0.5
REST = 3.0
"""A round that moved nothing is followed by a rest of this many times its length."""

_log = logging.getLogger(__name__)


def look(
    records: Records, catalog: CatalogPort, rollout: Rollout, now: datetime
) -> tuple[Plan, Policy]:
    """Return what ``rollout`` would do next, without doing it.

    Raises:
        RejectedError: ``POLICY_INVALID`` when its policy is of another version.
    """
    policy = Policy.load(rollout.policy)
    seen = observe(records, catalog, rollout, policy)
    return plan(policy, rollout, seen.variants, seen.fleet, now), policy


class Reconciler:
    """The loop that moves rollouts."""

    def __init__(
        self,
        store: Store,
        catalog: CatalogPort,
        assignments: Assignments,
        clock: Clock,
        *,
        tick_s: float = TICK_S,
    ) -> None:
        """Take the parts.

        Args:
            store: Everything that is known.
            catalog: The releases.
            assignments: Signs and publishes.
            clock: The time that decisions are made at.
            tick_s: Longest rest between two rounds.
        """
        self._store = store
        self._catalog = catalog
        self._enforced: frozenset[str] = frozenset()
        self._assignments = assignments
        self._clock = clock
        self._tick_s = tick_s
        self._wake = asyncio.Event()
        self._troubled: set[int] = set()

    def wake(self) -> None:
        """Have the next round begin at once; call it on the loop."""
        self._wake.set()

    async def run(self) -> None:
        """Make round after round until cancelled."""
        while True:
            self._wake.clear()
            began = self._clock.monotonic()
            try:
                if await asyncio.to_thread(self.round):
                    self._assignments.wake()
                    continue
            except QuarterdeckError as error:
                _log.warning("event=round_failed code=%s %s", error.code, error)
            await self._rest(self._clock.monotonic() - began)

    def round(self) -> bool:
        """Plan and carry out every active rollout once; return whether any moved.

        Raises:
            QuarterdeckError: The store is busy or damaged; the next round goes on.
        """
        withdrawn = self._enforce()
        with self._store.read() as records:
            active = records.rollouts.all(*ACTIVE)
        return withdrawn + sum(self._step(rollout) for rollout in active) > 0

    def _enforce(self) -> bool:
        """Stop what brings revoked artifacts to devices; return whether any was."""
        revoked = self._catalog.revoked()
        if self._enforced == revoked.keys():
            return False
        now = self._clock.now()
        with self._store.write() as records:
            done = enforce(records, self._catalog, revoked, now)
        self._enforced = frozenset(revoked)
        if done.rollouts or done.withdrawn:
            _log.warning(
                "event=revoked_enforced rollouts=%d withdrawn=%d",
                len(done.rollouts),
                len(done.withdrawn),
            )
        return bool(done.rollouts or done.withdrawn)

    def _step(self, rollout: Rollout) -> bool:
        now = self._clock.now()
        try:
            with self._store.read() as records:
                decided, policy = look(records, self._catalog, rollout, now)
            if decided.empty:
                return False
            with self._store.write() as records:
                done = carry_out(records, decided, policy, self._assignments, now)
        except QuarterdeckError as error:
            level = logging.DEBUG if rollout.id in self._troubled else logging.WARNING
            self._troubled.add(rollout.id)
            _log.log(
                level,
                "event=rollout_troubled rollout=%d code=%s %s",
                rollout.id,
                error.code,
                error,
            )
            return False
        if done:
            self._tell(decided)
        return done

    def _tell(self, decided: Plan) -> None:
        self._troubled.discard(decided.before.id)
        _log.info(
            "event=rollout_moved rollout=%d state=%s wave=%d assigned=%d %s",
            decided.after.id,
            decided.after.state,
            decided.after.wave + 1,
            len(decided.assign),
            "; ".join(decided.reasons),
        )

    async def _rest(self, spent_s: float) -> None:
        # However many events wake it, looking in vain never takes more than a quarter
        # of one core's time.
        await asyncio.sleep(min(spent_s * REST, 10.0))
        await wait_at_most(self._wake, self._tick_s)
