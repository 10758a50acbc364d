"""The store on a real SQLite file, in one process and in two."""

import sqlite3
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.store.records import StoredWindow
from quarterdeck_controller.store.schema import SCHEMA_VERSION
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.telemetry.sketch import Sketch
from tests.support.fleet import Core, FakeDevice
from tests.support.rollouts import START


def test_a_newer_schema_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "db"
    Store.open(path).close()
    raw = sqlite3.connect(path)
    raw.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    raw.close()

    with pytest.raises(RejectedError) as caught:
        Store.open(path)

    assert caught.value.code is Code.HOME_INVALID
    assert f"version {SCHEMA_VERSION + 1}" in caught.value.detail
    assert f"knows {SCHEMA_VERSION}" in caught.value.detail


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"not a database at all" * 100)

    with pytest.raises(RejectedError) as caught:
        Store.open(path)

    assert caught.value.code is Code.HOME_INVALID


def test_a_transaction_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")

    with pytest.raises(RejectedError), core.store.write() as records:
        _fail_half_way(records)

    with core.store.read() as records:
        assert records.devices.all() == ()
    core.close()


def _fail_half_way(records: Records) -> None:
    for name in ("fine", "Not Fine"):
        enrol(records, name, "k", now=START)


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.enrol("a", "b", tags=("site-a",))
    core.releases("m@1")
    core.create("m@1")
    core.rounds()
    before = (core.rollout(), core.assigned("a"), core.assigned("b"))
    core.close()

    core.open()
    after = (core.rollout(), core.assigned("a"), core.assigned("b"))
    core.close()

    assert after == before


def test_a_withdrawal_during_a_publish_is_still_published(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1")
    core.enrol("a")
    core.create("m@1")
    core.rounds()
    with core.store.read() as records:
        on_its_way = records.assignments.unpublished(10)

    with core.store.write() as records:
        records.assignments.withdraw({"a"})
    with core.store.write() as records:
        records.assignments.mark_published(on_its_way)

    with core.store.read() as records:
        left = records.assignments.unpublished(10)
    assert [it.withdrawn for it in left] == [True]
    core.close()


def test_a_window_is_stored_once_however_often_it_arrives(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.enrol("a")
    window = FakeDevice("a").window(1)
    item = (StoredWindow("a", window), window.encode())

    with core.store.write() as records:
        counts = [records.windows.add([item, item]), records.windows.add([item])]
        totals = records.windows.totals()
    core.close()

    assert counts == [1, 0]
    assert totals[0].requests == 100


def test_totals_add_up_counts_and_merge_latencies(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.enrol("a")
    device = FakeDevice("a")
    sketch = Sketch()
    for value in (1_000_000, 2_000_000):
        sketch.add(value)
    windows = [
        device.window(n, label_total=10, label_ok=n, latency=sketch) for n in (1, 2, 3)
    ]

    with core.store.write() as records:
        records.windows.add([(StoredWindow("a", it), it.encode()) for it in windows])
        (total,) = records.windows.totals()
        later = records.windows.totals(since=START + timedelta(seconds=1))
        other = records.windows.totals(artifacts=["f" * 64])
        read_back = records.windows.of("a")
    core.close()

    assert (total.label_ok, total.label_total, total.latency.count) == (6, 30, 6)
    assert (later, other) == ((), ())
    assert read_back == tuple(reversed(windows))


def test_old_windows_are_forgotten(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.enrol("a")
    window = FakeDevice("a").window(1)

    with core.store.write() as records:
        records.windows.add([(StoredWindow("a", window), window.encode())])
        gone = records.windows.forget(START + timedelta(seconds=1))
    core.close()

    assert gone == 1


def test_two_processes_write_to_one_database_and_lose_nothing(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    script = textwrap.dedent("""
        import sys
        from datetime import datetime, UTC
        from pathlib import Path
        from quarterdeck_controller.fleet.inventory import enrol
        from quarterdeck_controller.store.store import Records, Store
        with Store.open(Path(sys.argv[1])) as store:
            for n in range(60):
                with store.write() as records:
                    enrol(records, f"{sys.argv[2]}-{n}", "k", now=datetime.now(UTC))
    """)

    others = [
        subprocess.Popen([sys.executable, "-c", script, str(core.path), name])
        for name in ("left", "right")
    ]
    for n in range(60):
        core.enrol(f"here-{n}")
    codes = [other.wait(60) for other in others]

    with core.store.read() as records:
        count = len(records.devices.all())
    core.close()
    assert codes == [0, 0]
    assert count == 180
