"""The audit log with several writers, killed writers, and many entries."""

import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from quarterdeck_controller.access.verify import Findings, Witness, examine
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.witness import (
    AUDIT_FIELD,
    carried,
    roots,
    witness,
)
from quarterdeck_controller.store.ledger import Entry, Head
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.errors import RejectedError
from tests.support.releases import ManualClock, make_home

WRITER = textwrap.dedent("""
    import sys
    from datetime import datetime, UTC
    from pathlib import Path
    from quarterdeck_controller.fleet.inventory import enrol
    from quarterdeck_controller.store.ledger import Entry
    from quarterdeck_controller.store.store import Store
    with Store.open(Path(sys.argv[1])) as store:
        for n in range(int(sys.argv[3])):
            now, device = datetime.now(UTC), f"{sys.argv[2]}-{n}"
            with store.write() as records:
                enrol(records, device, "cam", now=now)
                records.audit.append(Entry(now, "device.enrol", f"device:{device}"))
            if n == 5:
                print("going", flush=True)
""")


def start(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def _ended(writer: subprocess.Popen[str]) -> int:
    with writer:
        return writer.wait(60)


def check(path: Path, *witnesses: Witness) -> Findings:
    with Store.open(path) as store, store.read() as records:
        return examine(records.audit.every(), witnesses)


def devices(path: Path) -> set[str]:
    with Store.open(path) as store, store.read() as records:
        return {f"device:{device.id}" for device in records.devices.all()}


def subjects(path: Path) -> set[str]:
    with Store.open(path) as store, store.read() as records:
        return {kept.subject for kept in records.audit.newest(10_000)}


def test_two_writers_at_once_leave_one_chain_without_gaps(tmp_path: Path) -> None:
    path = tmp_path / "db"
    Store.open(path).close()

    writers = [start(path, name, 60) for name in ("left", "right")]
    codes = [_ended(writer) for writer in writers]

    found = check(path)
    assert codes == [0, 0]
    assert (found.faults, found.head.number) == ((), 120)
    assert subjects(path) == devices(path)


def test_a_writer_that_is_killed_leaves_act_and_record_or_neither(
    tmp_path: Path,
) -> None:
    path = tmp_path / "db"
    Store.open(path).close()
    for name in ("one", "two", "three"):
        writer = start(path, name, 100_000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "going\n"

        writer.kill()
        _ended(writer)

        found = check(path)
        assert found.faults == ()
        assert found.head.number == len(devices(path)) >= 6
        assert subjects(path) == devices(path)


def test_tens_of_thousands_of_entries_are_checked_one_by_one(tmp_path: Path) -> None:
    path, clock = tmp_path / "db", ManualClock()
    with Store.open(path) as store, store.write() as records:
        head = records.audit.append(
            *(
                Entry(clock.now(), "rollout.decide", f"rollout:{n}", detail={"n": n})
                for n in range(30_000)
            )
        )
    told: list[int] = []

    with Store.open(path) as store, store.read() as records:
        found = examine(records.audit.every(), [Witness("kept", head)], told.append)

    assert (found.entries, found.faults, found.witnessed) == (30_000, (), 30_000)
    assert told == [10_000, 20_000, 30_000]


def append(path: Path, count: int) -> Head:
    now = ManualClock().now()
    with Store.open(path) as store, store.write() as records:
        entries = (Entry(now, "see", f"x:{n}") for n in range(count))
        return records.audit.append(*entries)


def test_every_signed_timestamp_carries_the_head_of_the_log(tmp_path: Path) -> None:
    clock = ManualClock()
    home = make_home(tmp_path / "home", clock)
    repository = Repository(home, clock)
    assert carried(repository.chain().timestamp) is None

    head = append(home.database, 5)
    clock.forward(hours=13)
    repository.renew(clock.now())
    older = repository.timestamp()
    append(home.database, 5)

    kept = witness(older, roots(home), "a device's timestamp")
    assert kept.head == head
    assert carried(repository.chain().timestamp) == head
    assert check(home.database, kept).witnessed == 5


def test_a_timestamp_of_another_fleet_is_no_witness(tmp_path: Path) -> None:
    clock = ManualClock()
    home, other = (make_home(tmp_path / name, clock) for name in ("home", "other"))
    append(other.database, 5)
    clock.forward(hours=13)
    theirs = Repository(other, clock)
    theirs.renew(clock.now())

    refused = _refusal(theirs.timestamp(), roots(home))
    changed = theirs.timestamp().replace(b'"number":5', b'"number":4')
    forged = _refusal(changed, roots(other))

    assert "not signed by this fleet" in refused
    assert "not signed by this fleet" in forged


def _refusal(data: bytes, trusted: tuple[bytes, ...]) -> str:
    with pytest.raises(RejectedError) as refused:
        witness(data, trusted, "it")
    return refused.value.detail


def test_no_timestamp_vouches_for_a_log_that_contradicts_the_one_before(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    home = make_home(tmp_path / "home", clock)
    repository = Repository(home, clock)
    head = append(home.database, 10)
    clock.forward(hours=13)
    repository.renew(clock.now())
    raw = sqlite3.connect(home.database)
    with raw:
        raw.execute("DELETE FROM audit WHERE number > 7")
    raw.close()
    append(home.database, 20)

    clock.forward(hours=13)
    renewed = repository.renew(clock.now())

    assert "timestamp" in renewed.renewed
    assert carried(repository.chain().timestamp) == head
    kept = witness(repository.timestamp(), roots(home), "the timestamp")
    (fault,) = check(home.database, kept).faults
    assert fault.number == 10


def test_a_damaged_database_does_not_keep_the_timestamp_from_being_signed(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    home = make_home(tmp_path / "home", clock)
    home.database.write_bytes(b"not a database at all" * 100)

    clock.forward(hours=13)
    renewed = Repository(home, clock).renew(clock.now())

    assert "timestamp" in renewed.renewed


def test_the_head_is_read_while_the_caller_holds_the_database(tmp_path: Path) -> None:
    clock = ManualClock()
    home = make_home(tmp_path / "home", clock)
    head = append(home.database, 3)
    clock.forward(hours=13)

    with Store.open(home.database) as store, store.write() as records:
        records.audit.append(Entry(clock.now(), "x.y"))
        Repository(home, clock).renew(clock.now())

    timestamp = Repository(home, clock).chain().timestamp
    assert carried(timestamp) == head
    assert timestamp.unrecognized_fields[AUDIT_FIELD]["number"] == 3
