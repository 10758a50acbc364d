"""Planning rollouts of large fleets, beside just reading the rows from SQLite."""

import sqlite3
from pathlib import Path

from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.reconcile import look
from quarterdeck_controller.store.records import Presence, Report
from quarterdeck_shared.reported import Reported, Slot
from tests.bench.table import Figure
from tests.bench.timing import in_turns
from tests.support.fleet import Core, FakeDevice
from tests.support.rollouts import START, X86, World, idle, runs

MS = 1e3
WAVES = ("50%", "100%")
ROWS = (
    "SELECT * FROM devices",
    "SELECT * FROM presence",
    (
        "SELECT device, active_release, active_digest, previous_release,"
        " previous_digest, update_sequence, update_digest, outcome, code, detail,"
        " settled_at, capabilities FROM reported"
    ),
    "SELECT device, digest FROM assignments",
    "SELECT * FROM rollout_devices",
)


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Plan in the middle of a wave, purely and from the store."""
    found: list[Figure] = []
    for count in (200,) if quick else (1_000, 10_000):
        found += _of_size(folder / f"{count}.db", count, rounds=3 if quick else 7)
    return found


def _of_size(path: Path, count: int, rounds: int) -> list[Figure]:
    core, world = Core(path), _world(count)
    bare = sqlite3.connect(path)
    try:
        _fill(core, count)
        pure, observed, read = in_turns(
            rounds, world.plan, lambda: _look(core), lambda: _read(bare)
        )
    finally:
        bare.close()
        core.close()
    note = f"half of them in flight; {1e6 * observed / count:.0f} us a device"
    rows = "reading the rows"
    size = f"{count:,} devices"
    return [
        Figure(f"plan, {size}", rounds, pure * MS, "ms", rows, read * MS),
        Figure(
            f"observe and plan, {size}",
            rounds,
            observed * MS,
            "ms",
            rows,
            read * MS,
            note,
        ),
    ]


def _world(count: int) -> World:
    """Return a fleet of views, half of it assigned and half of that committed."""
    policy = Policy.parse({"waves": WAVES})
    world = World.of(policy, [idle(_name(number)) for number in range(count)])
    world.settle()
    touched = [view.id for view in world.touched]
    world.commit(*touched[::2])
    return world


def _fill(core: Core, count: int) -> None:
    """Bring the same fleet into the store, with a rollout in its first wave."""
    core.releases("m@1", "m@2")
    slot = Slot(digest=runs("m@1", X86).target.sha256, release="m@1")
    devices = [FakeDevice(_name(number), active=slot) for number in range(count)]
    with core.store.write() as records:
        for device in devices:
            enrol(records, device.id, X86, tags=(), now=START)
        records.presence.put(_present(device) for device in devices)
        records.reports.put(_report(device) for device in devices)
    core.create("m@2", waves=WAVES)
    core.rounds()


def _present(device: FakeDevice) -> Presence:
    return Presence(
        device.id,
        device.boot,
        device.connection,
        online=True,
        last_seen=START,
        changed_at=START,
    )


def _report(device: FakeDevice) -> Report:
    return Report(Reported.decode(device.says().payload), START, START)


def _look(core: Core) -> None:
    with core.store.read() as records:
        (rollout,) = records.rollouts.all()
        look(records, core.catalog, rollout, core.clock.now())


def _read(connection: sqlite3.Connection) -> None:
    for query in ROWS:
        connection.execute(query).fetchall()


def _name(number: int) -> str:
    return f"device-{number:05}"
