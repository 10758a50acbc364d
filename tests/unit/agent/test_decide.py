"""What the update machine decides, case by case."""

from dataclasses import replace

import pytest

from quarterdeck_agent.evidence import GoldenReport, Tally
from quarterdeck_agent.update import decide
from quarterdeck_agent.update.record import Reason, Record, Work
from quarterdeck_agent.update.transitions import Event, State
from quarterdeck_shared.assignment import Probation
from quarterdeck_shared.codes import Code
from quarterdeck_shared.index import Golden, Limits
from quarterdeck_shared.reported import LastUpdate, Quarantined, Slot
from quarterdeck_shared.telemetry.sketch import Sketch
from tests.support.crash_machine import CAPABILITIES
from tests.support.installed import NEEDS, make_index

A, B = "a" * 64, "b" * 64
GOLDEN = Golden(count=32, min_agreement=0.95, margin=0.1, max_error=0.1)
LIMITS = Limits(latency_ms=10, memory_mb=200)
GOOD = GoldenReport(
    count=32,
    clear=20,
    agreed=20,
    error=0.01,
    p50_ms=1,
    p90_ms=2,
    p99_ms=3,
    rss_mb=100,
)


@pytest.mark.parametrize(
    ("change", "code", "numbers"),
    [
        ({}, None, ()),
        ({"agreed": 19}, None, ()),
        ({"agreed": 18}, Code.GOLDEN_FAILED, ("18 of 20", "0.950")),
        ({"count": 31}, Code.GOLDEN_FAILED, ("31", "32")),
        ({"error": 0.2}, Code.GOLDEN_FAILED, ("0.2000", "0.1000")),
        ({"error": float("nan")}, Code.GOLDEN_FAILED, ("nan", "0.1000")),
        ({"rss_mb": 201}, Code.MEMORY_EXCEEDED, ("201", "200")),
        ({"p90_ms": 10.5}, Code.LATENCY_EXCEEDED, ("10.50", "10.00")),
        ({"clear": 0, "agreed": 0}, None, ()),
    ],
)
def test_a_proof_is_judged_and_says_both_numbers(
    change: dict[str, float], code: Code | None, numbers: tuple[str, ...]
) -> None:
    reason = decide.judge_golden(GOOD.model_copy(update=change), GOLDEN, LIMITS)

    assert (reason.code if reason else None) is code
    assert all(number in (reason.detail if reason else "") for number in numbers)


FINE = Tally(requests=100)
ONE_SLOW = Sketch()
ONE_SLOW.add(50_000_000)
SLOW = Tally(requests=30, latency=Sketch(dict.fromkeys(ONE_SLOW.counts, 30)))


@pytest.mark.parametrize(
    ("tally", "elapsed", "verdict"),
    [
        (FINE, 1.0, None),
        (FINE, 60.0, Event.PASSED),
        (Tally(), 60.0, Event.PASSED),
        (replace(FINE, errors=2), 1.0, None),
        (replace(FINE, errors=3), 1.0, Code.PROBATION_FAILED),
        (replace(FINE, crashes=1), 60.0, Event.PASSED),
        (replace(FINE, crashes=2), 1.0, Code.WORKER_CRASHED),
        (replace(FINE, crashes=2, hangs=2), 1.0, Code.WORKER_HUNG),
        (replace(FINE, crashes=2, bloats=2), 1.0, Code.MEMORY_EXCEEDED),
        (SLOW, 1.0, None),
        (SLOW, 60.0, Code.PROBATION_FAILED),
        (replace(SLOW, latency=ONE_SLOW), 60.0, Event.PASSED),
    ],
)
def test_probation_is_judged(
    tally: Tally, elapsed: float, verdict: Event | Code | None
) -> None:
    probation = Probation(seconds=60, max_errors=2)

    got = decide.judge_probation(tally, elapsed, probation, LIMITS)

    assert (got.code if isinstance(got, Reason) else got) is verdict


def test_what_failed_before_is_not_installed_again() -> None:
    record = Record(quarantine=(Quarantined(digest=A, code=Code.GOLDEN_FAILED),))
    index = make_index({"model.onnx": b"m", "golden.npz": b"g"})

    refused = decide.may_install(index, digest=A, record=record, have=CAPABILITIES)
    allowed = decide.may_install(index, digest=B, record=record, have=CAPABILITIES)

    assert refused is not None
    assert refused.code is Code.QUARANTINED
    assert "golden_failed" in refused.detail
    assert allowed is None


def test_what_the_device_lacks_is_named() -> None:
    requires = NEEDS.model_copy(update={"isa": ("avx512-vnni",)})
    index = make_index({"model.onnx": b"m", "golden.npz": b"g"}, requires=requires)

    reason = decide.may_install(index, digest=A, record=Record(), have=CAPABILITIES)

    assert reason is not None
    assert reason.code is Code.INCOMPATIBLE
    assert "avx512-vnni" in reason.detail


def test_room_counts_what_is_there_already_and_keeps_the_reserve() -> None:
    index = make_index({"model.onnx": b"m" * 100_000, "golden.npz": b"g"})
    free = decide.RESERVE_BYTES + 50_000

    lacking = decide.room(index, free_bytes=free, present_bytes=0)
    enough = decide.room(index, free_bytes=free, present_bytes=60_000)

    assert lacking is not None
    assert lacking.code is Code.DISK_FULL
    assert enough is None


@pytest.mark.parametrize(
    ("active", "previous", "committed", "event"),
    [
        (A, B, True, Event.KEPT),
        (A, B, False, Event.WATCHED),
        (B, A, True, Event.FOUND),
        (B, None, True, Event.ASSIGNED),
        (None, None, False, Event.ASSIGNED),
    ],
)
def test_an_assignment_begins_by_what_is_there(
    active: str | None, previous: str | None, *, committed: bool, event: Event
) -> None:
    slots = [Slot(digest=d, release="m@1") if d else None for d in (active, previous)]
    record = Record(active=slots[0], previous=slots[1], committed=committed)

    assert decide.begin(record, A) is event


@pytest.mark.parametrize("state", State)
def test_only_what_may_have_ended_the_agent_is_given_up_after_restarts(
    state: State,
) -> None:
    work = Work(sequence=1, digest=A, release="m@1", probation=Probation())
    often = work.model_copy(update={"restarts": decide.MAX_RESTARTS + 1})

    first = decide.after_restart(Record(state=state, work=work))
    last = decide.after_restart(Record(state=state, work=often))

    assert first is None
    assert (last is not None) == (state in (State.PROVING, State.PROBATION))


def test_retries_slow_down_up_to_a_bound_and_are_spread() -> None:
    longest = [decide.retry_after(attempt, 1.0) for attempt in range(1, 40)]
    shortest = [decide.retry_after(attempt, 0.0) for attempt in range(1, 40)]

    assert longest[:3] == [2, 4, 8]
    assert longest[-1] == decide.LONGEST_RETRY_S
    assert all(s == x / 2 for s, x in zip(shortest, longest, strict=True))


def told(code: Code | None) -> LastUpdate:
    return LastUpdate(sequence=3, outcome="refused", code=code)


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [
        (Event.REFUSED, Code.INCOMPATIBLE, Code.INCOMPATIBLE),
        (Event.REFUSED, Code.TARGET_UNKNOWN, None),  # told when it was judged
        (Event.REFUSED, Code.RELEASE_DOWNGRADE, None),
        (Event.FAILED, Code.GOLDEN_FAILED, Code.GOLDEN_FAILED),
        (Event.FAILED, Code.CHUNK_INVALID, Code.CHUNK_INVALID),
        (Event.REVERTED, Code.WORKER_HUNG, Code.WORKER_HUNG),
        (Event.DAMAGED, None, Code.ARTIFACT_INVALID),
        (Event.DEFERRED, Code.DISK_FULL, None),
        (Event.PASSED, None, None),
        (Event.KEPT, None, None),
        (None, None, None),
    ],
)
def test_what_a_step_gives_up_is_told(
    event: Event | None, code: Code | None, reason: Code | None
) -> None:
    record = Record(event=event, update=told(code))

    given_up = decide.turned_down(record, "why")

    assert given_up == (Reason(reason, "why") if reason else None)


def test_a_model_that_was_left_beside_an_update_is_told_by_its_own_reason() -> None:
    listed = (Quarantined(digest="a" * 64, code=Code.WORKER_CRASHED),)
    record = Record(event=Event.REVERTED, update=told(None), quarantine=listed)

    given_up = decide.turned_down(record, "why")

    assert given_up == Reason(Code.WORKER_CRASHED, "why")
