"""Watching the fleet through the controller's own records, with a deadline on all."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from quarterdeck_controller.demo.timeline import Refusal, Timeline
from quarterdeck_controller.store.records import Presence, Rollout, Standing
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import TransientError

LOOK_EVERY_S = 0.15
EVENTS = 500
REFUSALS = frozenset({"failed", "refused", "reverted"})
"""Names of the agent's events that say that something was given up."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The fleet at one moment."""

    standings: dict[str, Standing]
    presence: dict[str, Presence]
    rollouts: dict[int, Rollout]

    def runs(self, device: str) -> str | None:
        """Return the release that ``device`` reports as active."""
        standing = self.standings.get(device)
        return standing.active_release if standing else None

    def online(self) -> set[str]:
        """Return the devices whose session is up."""
        return {name for name, presence in self.presence.items() if presence.online}


class Observer:
    """Looks again and again until something is so."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        pause: Callable[[float], None],
        show: Callable[[str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._pause = pause
        self._show = show
        self._began_s = clock.monotonic()
        self._began_at = clock.now()
        self.timeline = Timeline()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return self._clock.monotonic() - self._began_s

    def mark(self, text: str) -> None:
        """Note on the time line what begins now."""
        self.timeline.mark(self.elapsed_s, text)

    def look(self) -> Sight:
        """Return the fleet as it is now, and note what changed."""
        with self._store.read() as records:
            sight = Sight(
                records.reports.standings(),
                records.presence.all(),
                {rollout.id: rollout for rollout in records.rollouts.all()},
            )
        self.timeline.see(self.elapsed_s, sight.standings.values())
        return sight

    def codes(self, device: str) -> set[str]:
        """Return every reason that ``device`` has told about in its events."""
        with self._store.read() as records:
            events = records.events.of(device, limit=EVENTS)
        return {str(heard.event.code) for heard in events if heard.event.code}

    def collect_refusals(self, devices: Iterable[str]) -> None:
        """Note on the time line what ``devices`` refused or undid."""
        with self._store.read() as records:
            for device in devices:
                for heard in reversed(records.events.of(device, limit=EVENTS)):
                    event = heard.event
                    if event.code is not None and event.event in REFUSALS:
                        at_s = (event.at - self._began_at).total_seconds()
                        refusal = Refusal(at_s, device, str(event.code))
                        self.timeline.refusals.append(refusal)

    def wait(
        self,
        what: str,
        so: Callable[[Sight], bool],
        *,
        timeout_s: float,
        telling: Callable[[Sight], str] | None = None,
    ) -> Sight:
        """Return what is seen once ``so`` holds.

        Raises:
            TransientError: ``TIMED_OUT`` when it does not within ``timeout_s``.
        """
        until_s = self.elapsed_s + timeout_s
        while self.elapsed_s < until_s:
            sight = self.look()
            if telling is not None:
                self._show(telling(sight))
            if so(sight):
                return sight
            self._pause(LOOK_EVERY_S)
        raise TransientError(Code.TIMED_OUT, f"{what}: not within {timeout_s:g} s")
