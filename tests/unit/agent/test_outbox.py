"""Windows on disk until the controller has them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quarterdeck_agent.outbox import Outbox
from quarterdeck_shared.telemetry.window import Ack, Window

BOOT = 77
ARTIFACT = "0123456789abcdef"


def window(sequence: int, *, boot: int = BOOT, artifact: str = ARTIFACT) -> Window:
    return Window(
        boot=boot,
        sequence=sequence,
        artifact=artifact,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        duration=timedelta(seconds=1),
        requests=sequence,
    )


def opened(folder: Path, capacity: int = 512) -> Outbox:
    outbox = Outbox(folder, capacity)
    outbox.restore()
    return outbox


def sent(outbox: Outbox) -> list[Window]:
    taken = [outbox.take(entry) for entry in outbox.waiting()]
    return [Window.decode(data) for data in taken if data is not None]


def test_windows_survive_a_restart_in_order(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    for sequence in (1, 2, 3):
        outbox.keep(window(sequence))

    again = opened(tmp_path)

    assert [w.sequence for w in sent(again)] == [1, 2, 3]


def test_only_what_the_controller_acknowledged_is_forgotten(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    for sequence in (1, 2, 3):
        outbox.keep(window(sequence))
    sent(outbox)

    outbox.acknowledge(Ack(boot=BOOT, sequences=(1, 3, 9)))
    outbox.acknowledge(Ack(boot=BOOT + 1, sequences=(2,)))

    assert [w.sequence for w in sent(outbox)] == [2]
    assert [w.sequence for w in sent(opened(tmp_path))] == [2]


def test_a_long_time_offline_loses_resolution_but_no_count(tmp_path: Path) -> None:
    outbox = opened(tmp_path, capacity=8)

    for sequence in range(1, 101):
        outbox.keep(window(sequence))

    kept = sent(outbox)
    assert len(kept) == 8
    assert sum(w.requests for w in kept) == sum(range(1, 101))
    assert sum(w.span for w in kept) == 100
    assert outbox.dropped == 0


def test_what_may_have_reached_the_controller_is_never_merged(tmp_path: Path) -> None:
    outbox = opened(tmp_path, capacity=2)
    for sequence in (1, 2):
        outbox.keep(window(sequence))
    sent(outbox)
    again = opened(tmp_path, capacity=2)

    again.keep(window(3))

    assert [w.span for w in sent(again)] == [1, 1]
    assert again.dropped == 1


def test_windows_of_two_models_or_boots_never_merge(tmp_path: Path) -> None:
    outbox = opened(tmp_path, capacity=2)

    outbox.keep(window(1))
    outbox.keep(window(2, artifact="f" * 16))
    outbox.keep(window(1, boot=BOOT + 1))

    assert [w.span for w in sent(outbox)] == [1, 1]
    assert outbox.dropped == 1


def test_a_merge_that_a_crash_interrupted_counts_nothing_twice(tmp_path: Path) -> None:
    outbox = opened(tmp_path, capacity=1)
    outbox.keep(window(1))
    older = next(tmp_path.glob("*.new"))
    bytes_before = older.read_bytes()
    outbox.keep(window(2))
    older.write_bytes(bytes_before)

    again = opened(tmp_path)

    assert [(w.sequence, w.requests) for w in sent(again)] == [(2, 3)]


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x01" * 40])
def test_damaged_files_are_removed_and_do_no_harm(tmp_path: Path, junk: bytes) -> None:
    opened(tmp_path).keep(window(1))
    (tmp_path / f"{BOOT:014x}-{2:08x}.new").write_bytes(junk)
    (tmp_path / ".stray.tmp").write_bytes(junk)

    again = opened(tmp_path)

    assert len(again) == 1
    assert len(list(tmp_path.iterdir())) == 1
