"""The audit log: what is written, and what shows when somebody changes it."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_controller.access.exported import export_lines, read_export
from quarterdeck_controller.access.verify import MAX_FAULTS, Findings, Witness, examine
from quarterdeck_controller.store.ledger import (
    CONTROLLER,
    GENESIS,
    MAX_DETAIL_BYTES,
    MAX_SUBJECT,
    START,
    By,
    Entry,
    Head,
    Kept,
    Outcome,
    bounded,
    canonical,
    digest_of,
    seal,
)
from quarterdeck_controller.store.records import Decision
from quarterdeck_controller.store.schema import audit
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.rollouts import START as NOW

ADA = By("ada", "admin", "device.enrol")


def write(path: Path, count: int = 10, *, by: By = ADA) -> Head:
    """Append entries to the log at ``path``, one second after another."""
    with Store.open(path) as store, store.acting(by).write() as records:
        return records.audit.append(*(_entry(n) for n in range(count)))


def _entry(n: int) -> Entry:
    at = NOW + timedelta(seconds=n)
    return Entry(at, "device.enrol", f"device:d-{n}", Outcome.DONE, {"n": n})


def check(path: Path, *witnesses: Witness) -> Findings:
    with Store.open(path) as store, store.read() as records:
        return examine(records.audit.every(), witnesses)


def tamper(path: Path, *statements: str) -> None:
    """Change the file as somebody with an editor for databases would."""
    raw = sqlite3.connect(path)
    with raw:
        for statement in statements:
            raw.execute(statement)
    raw.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


def test_an_entry_says_who_did_what_to_whom_and_how_it_went(path: Path) -> None:
    write(path, 2)

    with Store.open(path) as store, store.read() as records:
        first, second = records.audit.newest(2)

    assert first.fields == {
        "v": 1,
        "number": 1,
        "at": "2026-05-04T08:00:00.000000+00:00",
        "actor": "ada",
        "role": "admin",
        "act": "device.enrol",
        "subject": "device:d-0",
        "outcome": "done",
        "detail": {"n": 0},
        "previous": GENESIS,
        "digest": first.digest,
    }
    assert second.fields["previous"] == first.digest


def test_the_bytes_of_an_entry_are_frozen() -> None:
    kept = seal(_entry(0), ADA, START)

    assert kept.body == (
        '{"act":"device.enrol","actor":"ada","at":"2026-05-04T08:00:00.000000+00:00",'
        '"detail":{"n":0},"number":1,"outcome":"done","previous":"' + GENESIS + '",'
        '"role":"admin","subject":"device:d-0","v":1}'
    )
    assert kept.digest == digest_of(kept.body.encode())


def test_a_log_that_nobody_changed_is_sound(path: Path) -> None:
    assert check(path) == Findings(0, START, (), 0, 0, ())

    head = write(path)
    found = check(path, Witness("a backup", head))

    assert (found.entries, found.head, found.faults) == (10, head, ())
    assert found.witnessed == 10


CHANGES = {
    "number": "UPDATE audit SET number = 99 WHERE number = 5",
    "at": "UPDATE audit SET at = at + 1 WHERE number = 5",
    "actor": "UPDATE audit SET actor = 'eve' WHERE number = 5",
    "act": "UPDATE audit SET act = 'see' WHERE number = 5",
    "subject": "UPDATE audit SET subject = 'device:x' WHERE number = 5",
    "outcome": "UPDATE audit SET outcome = 'failed' WHERE number = 5",
    "body": "UPDATE audit SET body = replace(body, 'ada', 'eve') WHERE number = 5",
    "digest": f"UPDATE audit SET digest = '{'a' * 64}' WHERE number = 5",
}


def test_the_table_has_no_column_that_is_not_tampered_with_here() -> None:
    names = {column.name for column in audit.columns}

    assert CHANGES.keys() == names


@pytest.mark.parametrize("column", CHANGES)
def test_a_changed_column_is_found_where_it_is(path: Path, column: str) -> None:
    write(path)

    tamper(path, CHANGES[column])

    first = check(path).faults[0]
    assert first.number == {"number": 6}.get(column, 5)


@pytest.mark.parametrize("column", ["actor", "act", "subject", "outcome", "body"])
@pytest.mark.parametrize("value", ["CAST({} AS BLOB)", "x'ff00fe'", "''"])
def test_a_column_of_another_type_or_of_no_text_is_found(
    path: Path, column: str, value: str
) -> None:
    write(path)
    changed = value.format(column)

    tamper(path, f"UPDATE audit SET {column} = {changed} WHERE number = 5")

    assert check(path).faults[0].number == 5


@pytest.mark.parametrize("value", ["'now'", "1.5", "9223372036854775807", "x'00'"])
def test_a_time_that_is_none_is_found(path: Path, value: str) -> None:
    write(path)

    tamper(path, f"UPDATE audit SET at = {value} WHERE number = 5")

    assert [fault.number for fault in check(path).faults] == [5]


@pytest.mark.parametrize(
    "body",
    ["", "{}", "null", "[" * 100_000, '{"v":1}', "NaN", "0" * 5000, "\x00"],
    ids=["empty", "object", "null", "deep", "short", "nan", "digits", "nul"],
)
def test_a_body_that_is_no_entry_is_found_even_with_its_own_digest(
    path: Path, body: str
) -> None:
    write(path)
    raw = sqlite3.connect(path)
    with raw:
        values = (body, digest_of(body.encode()))
        raw.execute("UPDATE audit SET body = ?, digest = ? WHERE number = 5", values)
    raw.close()

    told = {fault.number: fault.what for fault in check(path).faults}

    assert "no entry that this log would have written" in told[5]
    assert "one of the two was replaced" in told[6]


def test_entries_missing_in_the_middle_are_named(path: Path) -> None:
    write(path)

    tamper(path, "DELETE FROM audit WHERE number IN (4, 5, 8)")

    told = [(fault.number, fault.what) for fault in check(path).faults]
    assert told == [(6, "entries 4 to 5 are missing"), (9, "entry 8 is missing")]


def test_missing_first_entries_are_named(path: Path) -> None:
    write(path)

    tamper(path, "DELETE FROM audit WHERE number <= 3")

    assert [fault.what for fault in check(path).faults] == [
        "entries 1 to 3 are missing"
    ]


def test_an_end_that_was_cut_off_shows_against_a_kept_head(path: Path) -> None:
    head = write(path)

    tamper(path, "DELETE FROM audit WHERE number > 7")

    assert check(path).faults == ()
    (fault,) = check(path, Witness("a backup", head)).faults
    assert fault.number == 7
    assert "a backup knows entry 10: the last 3 were cut off" in fault.what


def test_a_log_that_was_emptied_shows_against_a_kept_head(path: Path) -> None:
    head = write(path)

    tamper(path, "DELETE FROM audit")

    (fault,) = check(path, Witness("a backup", head)).faults
    assert "the last 10 were cut off" in fault.what


def test_an_end_that_was_written_anew_shows_against_a_kept_head(path: Path) -> None:
    head = write(path)
    tamper(path, "DELETE FROM audit WHERE number > 7")
    write(path, 3, by=By("eve", "admin", "x"))

    assert check(path).faults == ()
    (fault,) = check(path, Witness("a backup", head)).faults

    assert fault.number == 10
    assert "written anew up to here" in fault.what


def test_an_older_head_vouches_for_what_was_there_then(path: Path) -> None:
    head = write(path, 4)
    write(path, 6)

    found = check(path, Witness("a backup", head))

    assert (found.faults, found.witnessed, found.head.number) == ((), 4, 10)


def test_entries_in_another_order_are_found(path: Path) -> None:
    write(path)

    tamper(
        path,
        "UPDATE audit SET number = -1 WHERE number = 4",
        "UPDATE audit SET number = 4 WHERE number = 5",
        "UPDATE audit SET number = 5 WHERE number = -1",
    )

    numbers = {fault.number for fault in check(path).faults}
    assert {4, 5} <= numbers


def test_an_entry_put_in_with_a_digest_of_its_own_is_found(path: Path) -> None:
    write(path)
    with Store.open(path) as store, store.read() as records:
        fourth = records.audit.get(4)
    assert fourth is not None
    forged = seal(_entry(99), By("eve", "admin"), Head(4, fourth.digest))
    raw = sqlite3.connect(path)
    with raw:
        raw.execute(
            "UPDATE audit SET at = ?, actor = 'eve', act = ?, subject = ?, body = ?,"
            " digest = ? WHERE number = 5",
            (
                int((forged.at - NOW).total_seconds()) * 10**6 + _us(),
                forged.act,
                forged.subject,
                forged.body,
                forged.digest,
            ),
        )
    raw.close()

    told = [(fault.number, fault.what) for fault in check(path).faults]

    assert [number for number, _ in told] == [6]
    assert "one of the two was replaced" in told[0][1]


def _us() -> int:
    return int(NOW.timestamp()) * 10**6


def test_many_faults_are_counted_and_the_first_are_told(path: Path) -> None:
    write(path, 50)

    tamper(path, "UPDATE audit SET actor = 'eve'")

    found = check(path)
    assert (len(found.faults), found.more) == (MAX_FAULTS, 30)
    assert [fault.number for fault in found.faults] == list(range(1, 21))


def test_a_clock_that_was_set_back_is_told_and_no_fault(path: Path) -> None:
    write(path, 5)
    write(path, 5)

    found = check(path)

    assert found.faults == ()
    assert found.backwards == (6,)


def test_what_a_transaction_appends_is_undone_with_it(path: Path) -> None:
    write(path, 3)

    with pytest.raises(RuntimeError), Store.open(path) as store:
        _append_and_fail(store)

    assert check(path).head.number == 3


def _append_and_fail(store: Store) -> None:
    with store.write() as records:
        records.audit.append(_entry(3))
        raise RuntimeError


def test_a_decision_is_in_the_log_of_the_transaction_that_made_it(path: Path) -> None:
    numbers = {"wave": 1, "assigned": 20, "p": 0.02}
    decision = Decision(NOW, "verdict failed", "too slow", None, numbers)

    with Store.open(path) as store:
        for by in (CONTROLLER, By("ada", "operator", "rollout.change")):
            with store.acting(by).write() as records:
                records.decisions.add(decision)
        with store.read() as records:
            ours, asked = (kept.fields for kept in records.audit.newest(2))

    told = {"what": "verdict failed", "reason": "too slow", "numbers": numbers}
    assert (ours["actor"], ours["act"], ours["detail"]) == (
        "controller",
        "rollout.decide",
        told,
    )
    assert (asked["actor"], asked["act"]) == ("ada", "rollout.change")


JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.just(NOW)
    | st.just(Path("/x")),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner)
    ),
    max_leaves=30,
)


@given(st.dictionaries(st.text(st.characters()), JSONISH))
def test_whatever_is_told_is_written_and_read_back(detail: dict[str, object]) -> None:
    kept = seal(replace(_entry(0), detail=detail), ADA, START)

    assert canonical(json.loads(kept.body)) == kept.body
    assert len(kept.body) < MAX_DETAIL_BYTES + 1000


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        ["x" * 400] * 1000,
        {str(n): "y" * 400 for n in range(1000)},
        float("nan"),
        float("-inf"),
        10**400,
        "\ud800",
    ],
)
def test_too_much_or_what_is_no_json_is_cut_and_never_refused(value: object) -> None:
    told = bounded({"value": value})

    assert len(canonical(told)) <= MAX_DETAIL_BYTES


def test_a_value_that_holds_itself_is_cut() -> None:
    loop: dict[str, object] = {}
    loop["again"] = loop

    assert len(canonical(bounded(loop))) <= MAX_DETAIL_BYTES


def test_a_subject_that_cannot_be_stored_is_written_so_that_it_can(path: Path) -> None:
    with Store.open(path) as store, store.write() as records:
        records.audit.append(Entry(NOW, "x", "device:\udcff" + "y" * 1000))
        (kept,) = records.audit.newest(1)

    assert len(kept.subject) == MAX_SUBJECT
    assert check(path).faults == ()


def test_entries_are_found_by_what_they_are_about(path: Path) -> None:
    with Store.open(path) as store:
        for by, entry in (
            (ADA, Entry(NOW, "device.enrol", "device:a")),
            (ADA, Entry(NOW, "device.revoke", "device:ab")),
            (CONTROLLER, Entry(NOW + timedelta(days=1), "rollout.decide", "rollout:1")),
            (CONTROLLER, Entry(NOW, "devices.x", "device_x")),
        ):
            with store.acting(by).write() as records:
                records.audit.append(entry)
        with store.read() as records:
            log = records.audit
            assert numbers(log.newest(9, subject="device:a")) == [1]
            assert numbers(log.newest(9, subject="device")) == [1, 2]
            assert numbers(log.newest(9, act="device")) == [1, 2]
            assert numbers(log.newest(9, act="device.revoke")) == [2]
            assert numbers(log.newest(9, actor="controller")) == [3, 4]
            assert numbers(log.newest(9, since=NOW + timedelta(days=1))) == [3]
            assert numbers(log.newest(2)) == [3, 4]


def numbers(found: Sequence[Kept]) -> list[int]:
    return [kept.number for kept in found]


def exported(path: Path) -> bytes:
    with Store.open(path) as store, store.read() as records:
        return b"".join(export_lines(records.audit.every()))


def examined(data: bytes) -> Findings:
    found = read_export(data, "log")
    return examine(found.rows, [Witness("its last line", found.head, outside=False)])


def test_an_exported_log_is_checked_without_the_home(path: Path) -> None:
    head = write(path)

    found = examined(exported(path))

    assert (found.entries, found.head, found.faults, found.witnessed) == (
        10,
        head,
        (),
        0,
    )


EDITS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "changed": lambda it: [*it[:4], it[4].replace(b"ada", b"eve"), *it[5:]],
    "dropped": lambda it: [*it[:4], *it[5:]],
    "swapped": lambda it: [*it[:4], it[5], it[4], *it[6:]],
    "doubled": lambda it: [*it[:5], it[4], *it[5:]],
    "added": lambda it: [*it[:4], b"{}", *it[4:]],
    "last changed": lambda it: [*it[:9], it[9].replace(b"ada", b"eve"), it[10]],
    "last dropped": lambda it: [*it[:9], it[10]],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_export_is_found_out(path: Path, edit: str) -> None:
    write(path)
    lines = exported(path).splitlines()

    found = examined(b"\n".join(EDITS[edit](lines)))

    assert found.faults


@pytest.mark.parametrize("keep", [0, 1, 500, -1, -100])
def test_an_export_that_was_cut_off_is_refused(path: Path, keep: int) -> None:
    write(path)
    data = exported(path).rstrip()

    with pytest.raises(RejectedError) as refused:
        read_export(data[:keep], "log.jsonl")

    assert refused.value.code is Code.AUDIT_BROKEN
    assert "cut off" in refused.value.detail


@given(st.binary(max_size=300))
def test_a_file_that_is_no_log_is_refused_or_found_wrong(data: bytes) -> None:
    try:
        found = examined(data)
    except RejectedError as error:
        broken = error.code is Code.AUDIT_BROKEN
    else:
        broken = bool(found.faults)

    assert broken
