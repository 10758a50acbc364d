"""SIGKILL in every state of the update machine, generated from its table.

Each case kills a real process right after a record was made durable and before its
action, after the action and before the next record, or between the two halves of a
write. Started again, it must serve a proven model at once, never nothing when it had
one, and come to the same end as an undisturbed run.
"""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from quarterdeck_agent.update.transitions import State
from tests.support import crash_machine
from tests.support.crash_machine import Kill, Moment, World

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.support.crash_machine"])

MOMENTS: tuple[Moment, ...] = get_args(Moment)
POINTS = [
    *(Kill(state, moment) for state in State for moment in MOMENTS),
    *(Kill(State.IDLE, moment, nth=2) for moment in MOMENTS),
]
"""Every state of the table, each moment; idle both before the work and after it."""


@dataclass(frozen=True)
class Scenario:
    """What the device runs, what it is told to run, and what must come of it.

    Models are ``a`` and ``b``; a scenario says what b does.
    """

    b: str
    active: str | None
    previous: str | None
    assigned: str
    ends_active: str | None
    ends_previous: str | None
    outcome: str
    quarantined: bool = False
    never: frozenset[State] = frozenset()


SCENARIOS = {
    "better": Scenario("good", "a", None, "b", "b", "a", "committed"),
    "first": Scenario("good", None, None, "b", "b", None, "committed"),
    "wrong": Scenario(
        "wrong",
        "a",
        None,
        "b",
        "a",
        None,
        "rolled_back",
        quarantined=True,
        never=frozenset({State.PROBATION}),
    ),
    "worse": Scenario(
        "worse", "a", None, "b", "a", None, "rolled_back", quarantined=True
    ),
    "back": Scenario(
        "good",
        "b",
        "a",
        "a",
        "a",
        "b",
        "committed",
        never=frozenset({State.FETCHING}),
    ),
    "same": Scenario(
        "good",
        "b",
        "a",
        "b",
        "b",
        "a",
        "committed",
        never=frozenset({State.FETCHING, State.PROVING, State.PROBATION}),
    ),
}


@dataclass(frozen=True)
class Case:
    """A scenario laid out in a world."""

    world: World
    scenario: Scenario
    digests: dict[str, str]

    def named(self, digest: str | None) -> str | None:
        return {d: name for name, d in self.digests.items()}.get(digest or "")


Lay = Callable[[str], Case]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    def _lay(name: str) -> Case:
        scenario, world = SCENARIOS[name], World(tmp_path)
        digests = {"a": world.release(1, "good"), "b": world.release(2, scenario.b)}
        active, previous = (
            digests[slot] if slot else None
            for slot in (scenario.active, scenario.previous)
        )
        world.install(active, previous)
        world.assign(digests[scenario.assigned])
        return Case(world, scenario, digests)

    return _lay


def run(world: World, kill: Kill | None = None) -> int | None:
    process = processes.Process(target=crash_machine.main, args=(world.folder, kill))
    process.start()
    process.join(60)
    return process.exitcode


def assert_invariants(case: Case) -> None:
    """Only proven models were served, and never nothing after something."""
    scenario = case.scenario
    proven = {scenario.active, scenario.previous} - {None}
    had_one = scenario.active is not None
    for line in case.world.log():
        match line:
            case ["proved", digest]:
                proven.add(case.named(digest))
            case ["serve", "None"]:
                assert not had_one, "served nothing though it had a model"
            case ["serve", digest]:
                assert case.named(digest) in proven, "served an unproven model"
                had_one = True
            case _:
                continue


def assert_every_start_serves_what_the_record_named(case: Case) -> None:
    first_after_boot = [
        after
        for before, after in zip(case.world.log(), case.world.log()[1:], strict=False)
        if before == ["boot"]
    ]
    allowed = {case.scenario.active, case.scenario.ends_active, case.scenario.assigned}
    for line in first_after_boot:
        if line[0] == "serve":
            assert case.named(line[1]) in allowed


def assert_ended_as_it_should(case: Case) -> None:
    scenario, record = case.scenario, case.world.record
    assert record.state is State.IDLE
    assert case.named(record.active.digest if record.active else None) == (
        scenario.ends_active
    )
    assert case.named(record.previous.digest if record.previous else None) == (
        scenario.ends_previous
    )
    assert record.update is not None
    assert record.update.outcome == scenario.outcome
    assert [case.named(q.digest) for q in record.quarantine] == (
        ["b"] if scenario.quarantined else []
    )
    on_disk = {case.named(folder.name) for folder in case.world.slots.folders()}
    assert on_disk == {scenario.ends_active, scenario.ends_previous} - {None}


def received_twice(case: Case) -> int:
    """Bytes that came over the wire beyond the artifact's own length."""
    got = [int(line[2]) for line in case.world.log() if line[0] == "received"]
    index = case.world.index(case.digests[case.scenario.assigned])
    return sum(got) - index.length if got else 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_undisturbed_run_ends_as_it_should(lay: Lay, name: str) -> None:
    case = lay(name)

    ended = run(case.world)

    assert ended == 0
    assert_invariants(case)
    assert_ended_as_it_should(case)


@pytest.mark.parametrize("kill", POINTS, ids=str)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_there_it_comes_to_the_same_end(lay: Lay, name: str, kill: Kill) -> None:
    case = lay(name)

    ended = run(case.world, kill)
    again = run(case.world) if ended else 0

    reached = ended == -9
    assert reached or (ended == 0 and kill.state in case.scenario.never)
    assert again == 0
    assert_invariants(case)
    assert_every_start_serves_what_the_record_named(case)
    assert_ended_as_it_should(case)
    assert received_twice(case) <= 0


@pytest.mark.parametrize("state", [s for s in State if s is not State.IDLE])
def test_killed_in_one_state_again_and_again_it_still_comes_to_an_end(
    lay: Lay, state: State
) -> None:
    """A proof or probation that may be what ends the agent is given up at last."""
    case = lay("better")

    for _ in range(8):
        if run(case.world, Kill(state, "persisted")) == 0:
            break
    ended = run(case.world)

    assert ended == 0
    assert_invariants(case)
    record = case.world.record
    serves = case.named(record.active.digest if record.active else None)
    assert serves == ("b" if state is State.FETCHING else "a")
