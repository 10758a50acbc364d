"""Play the demo's acts in order, and sum up what was seen."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from quarterdeck_controller.demo import acts, pictures
from quarterdeck_controller.demo.acts import Act, Seen
from quarterdeck_controller.demo.material import prepare
from quarterdeck_controller.demo.observe import Observer
from quarterdeck_controller.demo.processes import Processes
from quarterdeck_controller.demo.screen import Screen
from quarterdeck_controller.demo.stage import FLEET, LATE, Stage, make_home
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.errors import QuarterdeckError
from quarterdeck_shared.telemetry.window import Window

ACTS: Mapping[str, tuple[str, Act]] = {
    "optimize": ("Quantize for three device classes", acts.optimize_first),
    "roll-out": ("Roll out version 1 in waves", acts.roll_out_first),
    "better": ("Roll out version 2, a better model", acts.roll_out_better),
    "broken": ("A wrongly calibrated version", acts.refuse_broken),
    "worse": ("A version that is wrong in the field", acts.undo_worse),
    "stolen": (
        "A stolen assignment, and one of another class",
        acts.refuse_assignments,
    ),
    "tampered": ("A tampered artifact", acts.refuse_tampered),
    "killed": ("SIGKILL in the middle of a download", acts.resume_killed),
}
STOPPING = "stop"


@dataclass(frozen=True, slots=True)
class Played:
    """One act, and what came of it."""

    name: str
    title: str
    seen: Seen
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole run.

    Attributes:
        played: The acts that were played; the demo ends at the first that failed.
        folder: Where logs, pictures and the fleet's home are.
    """

    played: tuple[Played, ...]
    seconds: float
    folder: Path

    @property
    def ok(self) -> bool:
        """Whether every act was played and everything in it happened."""
        complete = len(self.played) == len(ACTS) + 1
        return complete and all(act.seen.ok for act in self.played)

    def as_json(self) -> dict[str, object]:
        """Return the summary for a script."""
        return {
            "v": 1,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "folder": str(self.folder),
            "steps": [
                {
                    "name": act.name,
                    "ok": act.seen.ok,
                    "seconds": round(act.seconds, 1),
                    "seen": act.seen.sentence,
                    "figures": dict(act.seen.figures),
                }
                for act in self.played
            ],
        }


def play(
    folder: Path,
    cache: Path,
    clock: Clock,
    screen: Screen,
    *,
    linger: Callable[[Stage], None],
) -> Summary:
    """Play all acts in ``folder``, which is new, and stop everything again.

    ``linger`` is called before the processes are stopped.

    Raises:
        QuarterdeckError: The demo could not begin.
    """
    screen.status("preparing the data")
    material = prepare(cache, folder / "data", [*FLEET, *LATE])
    home = make_home(folder, clock)
    played: list[Played] = []
    with (
        _stop_on_sigterm(),
        Store.open(home.database) as store,
        Processes(folder / "logs") as processes,
    ):
        observer = Observer(store, clock, time.sleep, screen.status)
        stage = Stage(folder, home, store, material, processes, observer, screen, clock)
        processes.start(
            "controller", "quarterdeck", ["serve", "--home", str(home.path)]
        )
        for name, (title, act) in ACTS.items():
            played.append(_play_one(stage, name, title, act))
            if not played[-1].seen.ok:
                break
        seconds = observer.elapsed_s
        _draw(stage)
        linger(stage)
        played.append(_stop(stage))
    return Summary(tuple(played), seconds, folder)


def _play_one(stage: Stage, name: str, title: str, act: Act) -> Played:
    letter = chr(ord("a") + list(ACTS).index(name)) if name in ACTS else " "
    stage.screen.act(letter, title)
    stage.observer.mark(f"{letter} {name}")
    began_s = stage.observer.elapsed_s
    try:
        seen = act(stage)
    except QuarterdeckError as error:
        seen = Seen(ok=False, sentence=f"{error.code}: {error.detail}")
    seconds = stage.observer.elapsed_s - began_s
    stage.screen.result(ok=seen.ok, sentence=seen.sentence, seconds=seconds)
    return Played(name, title, seen, seconds)


def _stop(stage: Stage) -> Played:
    def stop(stage: Stage) -> Seen:
        codes = stage.processes.stop_all()
        bad = {name: code for name, code in codes.items() if code != 0}
        return Seen(
            ok=not bad,
            sentence=f"{len(codes) - len(bad)} of {len(codes)} processes ended cleanly"
            + "".join(f"; {name} with {code}" for name, code in bad.items()),
            figures={"exit_codes": codes},
        )

    return _play_one(stage, STOPPING, "Stop everything", stop)


def _draw(stage: Stage) -> None:
    stage.screen.status("drawing")
    folder = stage.folder / "pictures"
    folder.mkdir()
    stage.observer.collect_refusals([*FLEET, *LATE])
    timeline, end_s = stage.observer.timeline, stage.observer.elapsed_s
    pictures.draw_rollouts(timeline, end_s, folder / "rollouts.png")
    pictures.draw_accuracy(_windows(stage), folder / "accuracy.png")


def _windows(stage: Stage) -> dict[str, list[Window]]:
    """Return every window of the fleet by the release it was counted on."""
    names = {
        variant.artifact[:16]: release.id
        for release in Catalog(stage.home).releases()
        for variant in release.variants.values()
    }
    found: dict[str, list[Window]] = {}
    with stage.store.read() as records:
        for device in [*FLEET, *LATE]:
            for window in records.windows.of(device, limit=10_000):
                release = names.get(window.artifact)
                if release is not None:
                    found.setdefault(release, []).append(window)
    return found


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that no process is left behind."""

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
