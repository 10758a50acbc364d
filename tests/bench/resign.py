"""Assignments of a whole fleet signed anew before they expire, and published."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from time import process_time

from securesystemslib.dsse import Envelope

from quarterdeck_controller.fleet.assignments import Assignments, Wish
from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.store.records import Runs
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.assignment import Assignment, Probation
from tests.bench.table import Figure
from tests.bench.timing import in_turns, seconds
from tests.support.attacks import World

DEVICES = 100_000
LIFETIME = timedelta(days=14)
AT_ONCE = 5000


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Sign for every device, let most of the validity pass, and sign anew."""
    world, count = World(folder), 1000 if quick else DEVICES
    sign = Director(world.home).sign
    with Store.open(folder / "fleet.db") as store:
        assignments = Assignments(store, None, sign, world.clock, lifetime=LIFETIME)
        _assign(world, store, assignments, count)
        world.clock.forward(days=10)
        began = process_time()
        wall = seconds(lambda: asyncio.run(assignments.renew()))
        spent = process_time() - began
        size = _checked(store, world, count)
    director, assignment = Director(world.home), world.assignment()
    (alone,) = in_turns(20 if quick else 500, lambda: director.sign(assignment))
    note = f"{size} bytes each, {size * count / 1e6:.0f} MB in all"
    return [
        Figure(
            "assignments signed anew and stored a second",
            count,
            count / wall,
            "/s",
            "Director.sign alone",
            1 / alone,
            f"{wall:.1f} s for {count}, {spent:.1f} s of CPU; {note}",
        ),
    ]


def _assign(world: World, store: Store, assignments: Assignments, count: int) -> None:
    release = world.catalog.release("model@1")
    runs, now = Runs(release.id, release.variants["cam"].target), world.clock.now()
    for first in range(0, count, AT_ONCE):
        names = [f"cam-{it}" for it in range(first, min(count, first + AT_ONCE))]
        with store.write() as records:
            for name in names:
                enrol(records, name, "cam", now=now)
            wishes = [Wish(it, "cam", runs, "bench", Probation()) for it in names]
            assignments.sign(records, wishes, now)


def _checked(store: Store, world: World, count: int) -> int:
    """Return the size of an envelope, having seen that all were signed anew."""
    with store.read() as records:
        soon = world.clock.now() + LIFETIME / 3
        assert not records.assignments.due(soon, "", 1)
        last = records.assignments.get(f"cam-{count - 1}")
    assert last is not None
    payload = Envelope.from_dict(json.loads(last.envelope)).payload
    assert Assignment.decode(payload).sequence == 2
    return len(last.envelope)
