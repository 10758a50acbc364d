"""What one device says never keeps the controller from serving the others."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from quarterdeck_controller.fleet.assignments import FOLLOWED, Wish
from quarterdeck_controller.fleet.writer import Writer
from quarterdeck_controller.store.devices import EVENTS_KEPT
from quarterdeck_controller.store.records import DeviceEvent, StoredRefusal
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import MAX_SEQUENCE, Probation
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.events import StepEvent
from quarterdeck_shared.refusal import Refusal
from quarterdeck_shared.reported import LastUpdate
from tests.support.fleet import Core, FakeDevice
from tests.support.rollouts import START, X86, runs

HUGE = 1 << 70
LARGEST = (1 << 53) - 1
EVENT = StepEvent(boot=1, number=1, at=START, event="assigned", state="idle")
REFUSAL = Refusal(
    device="liar", boot=1, number=1, at=START, code=Code.MALFORMED, sequence=1
)


def changed(message: Message, name: str, value: int) -> Message:
    body = json.loads(message.payload) | {name: value}
    return Message(message.topic, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("leaf", "name"),
    [("reported", "step"), ("reported", "sequence"), ("event", "number")],
)
def test_a_number_that_cannot_be_stored_loses_only_its_own_message(
    tmp_path: Path, leaf: str, name: str
) -> None:
    core, liar, honest = Core(tmp_path / "db"), FakeDevice("liar"), FakeDevice("honest")
    core.enrol("liar", "honest")
    said = {
        "reported": liar.says(),
        "event": Message(topics.up("liar", topics.UP_EVENT), EVENT.encode()),
    }

    hostile = changed(said[leaf], name, HUGE)
    Writer(core.store).write([(hostile, START), (honest.says(), START)])

    with core.store.read() as records:
        assert set(records.reports.some(["liar", "honest"])) == {"honest"}
        assert records.events.of("liar") == ()
    core.close()


def test_the_largest_numbers_that_are_accepted_can_be_stored(tmp_path: Path) -> None:
    core, liar = Core(tmp_path / "db"), FakeDevice("liar", step=LARGEST - 1)
    core.enrol("liar")
    event = EVENT.model_copy(update={"number": LARGEST})
    heard = Message(topics.up("liar", topics.UP_EVENT), event.encode())
    refusal = REFUSAL.model_copy(update={"number": LARGEST, "repeats": LARGEST})

    Writer(core.store).write([(liar.says(), START), (heard, START)])
    with core.store.write() as records:
        kept = records.refusals.add(
            [StoredRefusal(Refusal.decode(refusal.encode()), START)]
        )
        reports = records.reports.some(["liar"])
    core.close()

    assert kept == 1
    assert reports["liar"].reported.step == liar.step


def test_a_refusal_of_a_number_that_cannot_be_stored_is_malformed() -> None:
    body = json.loads(REFUSAL.encode()) | {"number": HUGE}

    with pytest.raises(RejectedError) as caught:
        Refusal.decode(json.dumps(body).encode())

    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("client", ["\0", "a\x01", "a b", "a.b", "é", "\ufffe", "a\n"])
def test_a_client_id_that_no_broker_takes_is_not_kept_to_end_sessions_by(
    tmp_path: Path, client: str
) -> None:
    core, liar, honest = Core(tmp_path / "db"), FakeDevice("liar"), FakeDevice("honest")
    core.enrol("liar", "honest")
    body = json.loads(liar.birth().payload) | {"client": client}
    born = Message(liar.birth().topic, json.dumps(body).encode())

    Writer(core.store).write([(born, START), (honest.birth(), START)])

    with core.store.read() as records:
        assert set(records.presence.some(["liar", "honest"])) == {"honest"}
    core.close()


@pytest.mark.parametrize("told", [FOLLOWED, FOLLOWED + 1, MAX_SEQUENCE - 1])
def test_a_device_that_reports_an_absurd_sequence_stops_nobodys_assignments(
    tmp_path: Path, told: int
) -> None:
    core = Core(tmp_path / "db")
    core.enrol("liar", "honest")
    wishes = [
        Wish(device, X86, runs("m@1", X86), "test", Probation())
        for device in ("liar", "honest")
    ]

    for claimed in (told, told + 1, MAX_SEQUENCE):
        update = LastUpdate(sequence=claimed, outcome="committed")
        liar = FakeDevice("liar", step=1, update=update)
        Writer(core.store).write([(liar.says(), START)])
        with core.store.write() as records:
            signed = core.assignments.sign(records, wishes, core.clock.now())
    core.close()

    assert [it.device for it in signed] == ["liar", "honest"]
    assert signed[0].sequence <= FOLLOWED + len((told, told + 1, MAX_SEQUENCE))


def test_a_device_is_counted_on_from_after_a_backup_was_put_back(
    tmp_path: Path,
) -> None:
    core = Core(tmp_path / "db")
    core.enrol("till-1")
    update = LastUpdate(sequence=41, outcome="committed")
    device = FakeDevice("till-1", step=1, update=update)
    Writer(core.store).write([(device.says(), START)])

    with core.store.write() as records:
        wish = Wish("till-1", X86, runs("m@1", X86), "test", Probation())
        (signed,) = core.assignments.sign(records, [wish], core.clock.now())
    core.close()

    assert signed.sequence == 42


def test_of_a_device_that_never_stops_telling_the_newest_events_are_kept(
    tmp_path: Path,
) -> None:
    core, told = Core(tmp_path / "db"), EVENTS_KEPT + 700
    core.enrol("liar", "honest")
    heard = [
        DeviceEvent(
            device,
            EVENT.model_copy(update={"number": number}),
            START + timedelta(milliseconds=number),
        )
        for device, count in (("honest", 3), ("liar", told))
        for number in range(count)
    ]

    for at in range(0, len(heard), 500):
        with core.store.write() as records:
            records.events.add(heard[at : at + 500])
    with core.store.read() as records:
        kept = records.events.of("liar", limit=told)
        others = records.events.of("honest")
    core.close()

    assert [it.event.number for it in kept] == list(reversed(range(700, told)))
    assert len(others) == 3
