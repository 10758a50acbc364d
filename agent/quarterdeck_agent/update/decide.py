"""What the update machine decides (PROTOCOL.md section 6, checks 6.10, 6.13, 6.15).

Pure: data in, a decision and its reason out. A reason carries both numbers.
"""

from quarterdeck_agent.evidence import GoldenReport, Tally
from quarterdeck_agent.update.record import Reason, Record
from quarterdeck_agent.update.transitions import Event, State
from quarterdeck_shared.assignment import Probation
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities, lacking
from quarterdeck_shared.index import Golden, Index, Limits

RESERVE_BYTES = 16 << 20
"""Room that an artifact may never take: the record, the windows and the log's."""

MAX_ROUNDS = 3
"""Times a complete slot may turn out damaged before it is given up."""

MAX_RESTARTS = 3
"""Starts of the agent in one state that could be the artifact's doing."""

MAX_CRASHES = 2
"""Worker deaths during probation that are one too many."""

PROBATION_LATENCY_ROOM = 2.0
"""Live requests share the machine, the golden proof did not; so they get more time."""

PROBATION_MIN_ANSWERS = 20
"""Fewer latencies say nothing about a 90th percentile."""

FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 120.0

AUTHENTIC = frozenset(
    {
        Code.WRONG_CLASS,
        Code.ASSIGNMENT_EXPIRED,
        Code.TARGET_UNKNOWN,
        Code.TARGET_MISMATCH,
        Code.RELEASE_DOWNGRADE,
    }
)
"""Refusals that come after the signature was verified and the device matched."""


def may_install(
    index: Index,
    *,
    digest: str,
    record: Record,
    have: Capabilities,
) -> Reason | None:
    """Return why the artifact may never be installed here, or None (check 6.10).

    Room on the disk, which changes with time, is asked for with ``room``.
    """
    for entry in record.quarantine:
        if entry.digest == digest:
            return Reason(Code.QUARANTINED, f"{digest[:12]} failed with {entry.code}")
    missing = lacking(have, index.requires)
    return None if missing is None else Reason(Code.INCOMPATIBLE, missing)


def room(index: Index, *, free_bytes: int, present_bytes: int) -> Reason | None:
    """Return why the artifact does not fit on the disk now, or None.

    ``present_bytes`` of it are on the disk already.
    """
    needed = max(0, index.length - present_bytes) + RESERVE_BYTES
    if free_bytes >= needed:
        return None
    return Reason(
        Code.DISK_FULL,
        f"needs {_mib(needed)} MiB with the reserve, {_mib(free_bytes)} are free",
    )


def begin(record: Record, digest: str) -> Event:
    """Return how an assignment that may be installed begins.

    Only the previous slot is known to have been complete; it is hashed and proven
    again all the same. Any other goes through a fetch, which finds what is there.
    """
    if record.active is not None and record.active.digest == digest:
        return Event.KEPT if record.committed else Event.WATCHED
    found = record.previous is not None and record.previous.digest == digest
    return Event.FOUND if found else Event.ASSIGNED


def judge_golden(report: GoldenReport, golden: Golden, limits: Limits) -> Reason | None:
    """Return why the proof failed, or None (check 6.13)."""
    return (
        _judge_scores(report, golden)
        or judge_memory(report.rss_mb, limits)
        or _judge_latency(report, limits)
    )


def _judge_scores(report: GoldenReport, golden: Golden) -> Reason | None:
    if report.count != golden.count:
        return Reason(
            Code.GOLDEN_FAILED,
            f"{report.count} vectors were found, {golden.count} are signed for",
        )
    agreement = report.agreed / report.clear if report.clear else 1.0
    if agreement < golden.min_agreement:
        return Reason(
            Code.GOLDEN_FAILED,
            f"{report.agreed} of {report.clear} clear vectors agree "
            f"({agreement:.3f}), at least {golden.min_agreement:.3f} must",
        )
    if not report.error <= golden.max_error:
        return Reason(
            Code.GOLDEN_FAILED,
            f"scores are off by {report.error:.4f}, at most {golden.max_error:.4f} may",
        )
    return None


def judge_memory(rss_mb: int, limits: Limits) -> Reason | None:
    """Return why a worker is too big, or None."""
    if rss_mb <= limits.memory_mb:
        return None
    return Reason(
        Code.MEMORY_EXCEEDED,
        f"the worker holds {rss_mb} MiB, at most {limits.memory_mb} are allowed",
    )


def _judge_latency(report: GoldenReport, limits: Limits) -> Reason | None:
    if report.p90_ms <= limits.latency_ms:
        return None
    return Reason(
        Code.LATENCY_EXCEEDED,
        f"the 90th percentile is {report.p90_ms:.2f} ms, "
        f"at most {limits.latency_ms:.2f} are allowed",
    )


def judge_probation(
    tally: Tally, elapsed_s: float, probation: Probation, limits: Limits
) -> Event | Reason | None:
    """Return PASSED, the reason why it failed, or None to go on watching (6.15)."""
    if tally.crashes >= MAX_CRASHES:
        return Reason(
            _crash_code(tally),
            f"the worker died {tally.crashes} times on probation, "
            f"fewer than {MAX_CRASHES} are accepted; last: {tally.cause}",
        )
    if tally.errors > probation.max_errors:
        return Reason(
            Code.PROBATION_FAILED,
            f"{tally.errors} of {tally.requests} requests failed, "
            f"at most {probation.max_errors} may",
        )
    if elapsed_s < probation.seconds:
        return None
    return _judge_live_latency(tally, limits) or Event.PASSED


def _judge_live_latency(tally: Tally, limits: Limits) -> Reason | None:
    p90, most = tally.p90_ms, limits.latency_ms * PROBATION_LATENCY_ROOM
    if p90 is None or tally.latency.count < PROBATION_MIN_ANSWERS or p90 <= most:
        return None
    return Reason(
        Code.PROBATION_FAILED,
        f"the 90th percentile of {tally.latency.count} live requests is "
        f"{p90:.2f} ms, at most {most:.2f} are allowed",
    )


def crash_loop(tally: Tally) -> Reason:
    """Return why a model that keeps crashing is given up."""
    return Reason(
        _crash_code(tally),
        f"the worker died {tally.crashes} times; last: {tally.cause}",
    )


def _crash_code(tally: Tally) -> Code:
    if tally.last in (Code.ARTIFACT_INVALID, Code.LOAD_FAILED):
        return tally.last
    if tally.hangs * 2 > tally.crashes:
        return Code.WORKER_HUNG
    if tally.bloats * 2 > tally.crashes:
        return Code.MEMORY_EXCEEDED
    return Code.WORKER_CRASHED


def after_restart(record: Record) -> Reason | None:
    """Return why the artifact in hand is given up after a restart, or None to go on.

    A fetch cannot have ended the agent; a proof or a probation may have, if it
    happens again and again.
    """
    work = record.work
    if work is None or record.state not in (State.PROVING, State.PROBATION):
        return None
    if work.restarts <= MAX_RESTARTS:
        return None
    return Reason(
        Code.WORKER_CRASHED,
        f"the agent was started {work.restarts} times while {record.state}, "
        f"at most {MAX_RESTARTS} are accepted",
    )


def after_damage(record: Record, detail: str) -> Reason | None:
    """Return why a damaged slot is given up, or None to fetch it again."""
    work = record.work
    if work is None or work.rounds + 1 < MAX_ROUNDS:
        return None
    return Reason(Code.ARTIFACT_INVALID, f"{detail}, for the {work.rounds + 1}th time")


def blames_artifact(code: Code) -> bool:
    """Return whether a failure with ``code`` puts the artifact into quarantine."""
    return code not in (Code.ARTIFACT_INVALID, Code.CHUNK_INVALID)


def turned_down(record: Record, why: str) -> Reason | None:
    """Return what the newest step gave up and why, or None (6.10 to 6.15).

    What was refused while it was judged (6.1 to 6.9) is told by whoever judged it.
    """
    update, told = record.update, record.quarantine
    match record.event:
        case Event.DAMAGED:
            return Reason(Code.ARTIFACT_INVALID, why)
        case Event.REFUSED | Event.FAILED | Event.REVERTED:
            code = update.code if update is not None else None
            code = code or (told[-1].code if told else None)
            is_news = code is not None and code not in AUTHENTIC
            return Reason(code, why) if code is not None and is_news else None
        case _:
            return None


def retry_after(attempt: int, draw: float) -> float:
    """Return the seconds to wait after failed attempt ``attempt``, counted from 1.

    Doubles, and ``draw`` (random, from 0 to 1) spreads it over half of itself, so
    that a fleet does not ask at once.
    """
    longest: float = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt - 1, 16))
    return longest * (0.5 + 0.5 * draw)


def _mib(count: int) -> int:
    return -(-count // (1 << 20))
