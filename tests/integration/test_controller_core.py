"""Rollouts, listening and ingest on a real database and the memory bus."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from quarterdeck_controller.fleet.inventory import select
from quarterdeck_controller.fleet.listener import Listener
from quarterdeck_controller.monitor.ingest import Ingest
from quarterdeck_controller.monitor.report import report
from quarterdeck_controller.rollout.execute import carry_out, command
from quarterdeck_controller.rollout.reconcile import Reconciler, look
from quarterdeck_controller.rollout.state import Step
from quarterdeck_controller.store.records import RolloutState
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import Assignment
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.window import Ack
from tests.support.brokers import until
from tests.support.fleet import Core, FakeDevice
from tests.support.rollouts import ARM, START, X86


class Yard:
    """The core on a memory bus, with its loops running."""

    def __init__(self, path: Path) -> None:
        self.broker = MemoryBroker()
        self.controller = MemoryBus(self.broker, "controller")
        self.outside = MemoryBus(self.broker, "outside")
        self.core = Core(path / "db", bus=self.controller)
        self.listener = Listener(
            self.controller, self.core.store, self.core.clock, answer_s=0.05
        )
        self.ingest = Ingest(self.controller, self.core.store, SystemClock())
        self.heard: dict[str, list[bytes]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        for bus in (self.controller, self.outside):
            await bus.start()
            await bus.wait_connected(5)
        for loop in (
            self.listener.run(),
            self.ingest.run(),
            self.core.assignments.run(),
        ):
            self.tasks.append(asyncio.create_task(loop))
        await asyncio.sleep(0)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.controller.close()
        await self.outside.close()
        self.core.close()

    async def hear(self, device: str) -> None:
        def note(message: Message) -> None:
            self.heard.setdefault(topics.leaf(message.topic), []).append(
                message.payload
            )

        await self.outside.subscribe(topics.down_all(device), note)

    async def say(self, *messages: Message, retain: bool = False) -> None:
        for message in messages:
            await self.outside.publish(message.topic, message.payload, retain=retain)

    def online(self, device: str) -> bool:
        with self.core.store.read() as records:
            presence = records.presence.get(device)
        return presence is not None and presence.online

    def active(self, device: str) -> str | None:
        with self.core.store.read() as records:
            found = records.reports.standings().get(device)
        return found.active_release if found else None

    def sequence_told(self, device: str) -> int | None:
        with self.core.store.read() as records:
            return records.reports.sequences({device}).get(device)

    def requests(self) -> int:
        with self.core.store.read() as records:
            return sum(it.requests for it in records.windows.totals())


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path)
    made.core.releases("m@1", "m@2", classes=(X86, ARM))
    yield made
    await made.end()


async def test_births_wills_and_reports_reach_the_store(yard: Yard) -> None:
    yard.core.enrol("a")
    await yard.begin()
    device = FakeDevice("a")

    await yard.say(device.birth(), device.says())

    await until(lambda: yard.online("a"), "the birth")
    await yard.say(replace(device, connection=9).birth(online=False))
    await yard.say(device.birth(online=False))
    await until(lambda: not yard.online("a"), "the will")


async def test_a_device_without_a_birth_is_asked_for_one(yard: Yard) -> None:
    yard.core.enrol("a")
    await yard.begin()
    await yard.hear("a")

    await yard.say(FakeDevice("a").says())

    await until(lambda: yard.heard.get(topics.DOWN_REBIRTH), "the rebirth")
    assert yard.heard[topics.DOWN_REBIRTH] == [b""]


async def test_a_device_that_died_while_we_were_away_is_found_out(yard: Yard) -> None:
    yard.core.enrol("a")
    await yard.begin()
    await yard.say(FakeDevice("a").birth())
    await until(lambda: yard.online("a"), "the birth")

    yard.broker.stop(forget=True)
    yard.broker.start()

    await until(lambda: not yard.online("a"), "the silence noticed")


async def test_lies_and_noise_change_nothing(yard: Yard) -> None:
    yard.core.enrol("a", "b")
    await yard.begin()
    topic = topics.up("a", topics.UP_REPORTED)

    await yard.say(
        Message(topic, b"\x00\xff not json"),
        Message(topic, FakeDevice("b").says().payload),
        Message(topic, FakeDevice("a", ARM).says().payload),
        FakeDevice("stranger").birth(),
        Message(topics.up("a", topics.UP_TELEMETRY), b"noise"),
        FakeDevice("b").birth(),
    )

    await until(lambda: yard.online("b"), "the last message")
    assert yard.active("a") is None
    with yard.core.store.read() as records:
        assert set(records.presence.all()) == {"b"}
    await until(lambda: yard.ingest.counts.malformed == 1, "the malformed window")


async def test_windows_are_acknowledged_after_they_are_stored(yard: Yard) -> None:
    yard.core.enrol("a")
    await yard.begin()
    await yard.hear("a")
    device = FakeDevice("a")

    await yard.say(*(device.telemetry(device.window(n)) for n in (1, 2)))

    await until(lambda: yard.heard.get(topics.DOWN_ACK), "the ack")
    acks = [Ack.decode(it) for it in yard.heard[topics.DOWN_ACK]]
    assert {n for ack in acks for n in ack.sequences} == {1, 2}
    assert yard.requests() == 200


async def test_a_window_sent_twice_counts_once_and_is_acknowledged_twice(
    yard: Yard,
) -> None:
    yard.core.enrol("a")
    await yard.begin()
    await yard.hear("a")
    device = FakeDevice("a")
    await yard.say(device.telemetry(device.window(1)))
    await until(lambda: yard.heard.get(topics.DOWN_ACK), "the first ack")

    await yard.say(device.telemetry(device.window(1)))

    await until(lambda: len(yard.heard[topics.DOWN_ACK]) == 2, "the second ack")
    assert yard.requests() == 100
    assert yard.ingest.counts.repeated == 1


async def test_assignments_are_published_retained_and_again_when_forgotten(
    yard: Yard,
) -> None:
    yard.core.enrol("a")
    yard.core.create("m@1")
    await yard.begin()
    await yard.hear("a")
    yard.core.rounds()
    yard.core.assignments.wake()
    await until(lambda: yard.heard.get(topics.DOWN_ASSIGNMENT), "the assignment")

    yard.broker.stop(forget=True)
    yard.broker.start()

    await until(
        lambda: len(yard.heard[topics.DOWN_ASSIGNMENT]) == 2, "the assignment again"
    )
    first, again = yard.heard[topics.DOWN_ASSIGNMENT]
    assert first == again
    assert Assignment.decode(first).sequence == 1


async def test_what_was_stored_and_not_published_is_published_after_a_restart(
    tmp_path: Path,
) -> None:
    killed = Core(tmp_path / "db")
    killed.releases("m@1")
    killed.enrol("a", "b")
    killed.create("m@1", waves=("100%",))
    killed.reconciler.round()  # stored, and never published
    killed.close()
    yard = Yard(tmp_path)
    await yard.begin()

    await yard.hear("a")

    await until(lambda: yard.heard.get(topics.DOWN_ASSIGNMENT), "the assignment")
    await yard.end()


async def test_assignments_are_signed_anew_before_they_expire(yard: Yard) -> None:
    yard.core.enrol("a")
    yard.core.create("m@1")
    yard.core.rounds()
    before = yard.core.assigned("a")
    assert before is not None
    assert await yard.core.assignments.renew() == 0

    yard.core.clock.move(10 * 86_400)
    count = await yard.core.assignments.renew()

    after = yard.core.assigned("a")
    assert after is not None
    assert count == 1
    assert (after.sequence, after.runs) == (2, before.runs)
    assert after.expires > before.expires


async def test_assignments_of_a_replaced_director_are_signed_anew(yard: Yard) -> None:
    yard.core.enrol("a", "b")
    yard.core.create("m@1", waves=("100%",))
    yard.core.rounds()

    yard.core.director[:] = ["key-2"]
    count = await yard.core.assignments.renew()

    after = yard.core.assigned("a")
    assert after is not None
    assert count == 2
    assert (after.sequence, after.signed_by) == (2, "key-2")
    assert await yard.core.assignments.renew() == 0


async def test_the_next_sequence_is_above_what_the_device_has_accepted(
    yard: Yard,
) -> None:
    await yard.begin()
    yard.core.enrol("a")
    yard.core.create("m@1")
    yard.core.rounds()
    first = yard.core.assigned("a")
    assert first is not None
    device = FakeDevice("a")
    device.refuse(replace(first, sequence=40), Code.WRONG_CLASS)

    await yard.say(device.birth(), device.says())
    await until(lambda: yard.sequence_told("a") == 40, "the report")
    yard.core.clock.move(10 * 86_400)
    await yard.core.assignments.renew()

    after = yard.core.assigned("a")
    assert after is not None
    assert after.sequence == 41


async def test_a_withdrawn_assignment_is_taken_out_of_the_broker(yard: Yard) -> None:
    yard.core.enrol("away")
    yard.core.create("m@1", waves=("100%",))
    await yard.begin()
    yard.core.rounds()
    yard.core.assignments.wake()
    await yard.hear("away")
    await until(lambda: yard.heard.get(topics.DOWN_ASSIGNMENT), "the assignment")

    with yard.core.store.write() as records:
        command(records, 1, Step.ROLL_BACK, "it is bad", yard.core.clock.now())
    yard.core.rounds()
    yard.core.assignments.wake()

    await until(lambda: yard.heard[topics.DOWN_ASSIGNMENT][-1] == b"", "the withdrawal")
    assert yard.core.rollout().state is RolloutState.ROLLED_BACK
    assert yard.core.assigned_devices() == []


def devices_of(core: Core) -> dict[str, FakeDevice]:
    with core.store.read() as records:
        return {
            it.id: FakeDevice(it.id, it.device_class) for it in select(records, "all")
        }


def tell(core: Core, listener: Listener, *messages: Message) -> None:
    listener._writer.write([(it, core.clock.now()) for it in messages])


def obey(core: Core, listener: Listener, devices: dict[str, FakeDevice]) -> None:
    for device in devices.values():
        assigned = core.assigned(device.id)
        if assigned is not None and assigned.sequence > device.sequence:
            device.commit(assigned)
            tell(core, listener, device.says())


def promoted(core: Core, listener: Listener, name: str) -> dict[str, FakeDevice]:
    devices = devices_of(core)
    for device in devices.values():
        tell(core, listener, device.birth(), device.says())
    number = core.create(name, waves=("100%",)).id
    for _ in range(4):
        core.rounds(10)
        obey(core, listener, devices)
    assert core.rollout(number).state is RolloutState.PROMOTED
    return devices


def listener_of(core: Core) -> Listener:
    bus = MemoryBus(MemoryBroker(), "controller")
    return Listener(bus, core.store, core.clock)


async def test_a_bad_release_goes_back_and_the_story_is_on_record(
    tmp_path: Path,
) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1", "m@2", classes=(X86, ARM))
    core.enrol("x0", "x1", "x2")
    core.enrol("a0", device_class=ARM)
    listener = listener_of(core)
    devices = promoted(core, listener, "m@1")

    number = core.create("m@2", waves=("2", "100%")).id
    core.rounds()
    touched = [it for it in devices if core.release_of(it) == ("m@2", 2)]
    bad, fine = touched
    for name, code in ((bad, Code.GOLDEN_FAILED), (fine, None)):
        assigned = core.assigned(name)
        assert assigned is not None
        if code:
            devices[name].refuse(assigned, code)
        else:
            devices[name].commit(assigned)
        tell(core, listener, devices[name].says())
    core.rounds(1)
    obey(core, listener, devices)
    core.rounds(1)

    rollout = core.rollout(number)
    assert rollout.state is RolloutState.ROLLED_BACK
    assert {device.active.release for device in devices.values() if device.active} == {
        "m@1"
    }
    with core.store.read() as records:
        told = [it.what for it in records.decisions.of(number)]
    assert told == [
        "created running",
        "assigned",
        "rolling_back",
        "assigned",
        "rolled_back",
    ]
    assert f"{bad} (golden_failed)" in rollout.reason
    core.close()


async def test_a_rollout_goes_on_after_every_kill(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1")
    core.enrol(*(f"d{n}" for n in range(8)))
    devices = devices_of(core)
    for device in devices.values():
        tell(core, listener_of(core), device.birth(), device.says())
    core.create("m@1", waves=("1", "50%", "100%"))

    for _ in range(40):
        core.clock.move(5)
        core.reconciler.round()
        core.close()  # killed after whatever that was
        core.open()
        obey(core, listener_of(core), devices)

    assert core.rollout().state is RolloutState.PROMOTED
    assert all(core.release_of(it) == ("m@1", 1) for it in devices)
    core.close()


async def test_a_plan_on_an_older_revision_is_dropped(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1")
    core.enrol("a")
    rollout = core.create("m@1")
    now = core.clock.now()
    with core.store.read() as records:
        late, policy = look(records, core.catalog, rollout, now)
    with core.store.write() as records:
        command(records, rollout.id, Step.PAUSE, "stop", now)

    with core.store.write() as records:
        done = carry_out(records, late, policy, core.assignments, now)

    assert not done
    assert core.assigned("a") is None
    core.close()


async def test_what_is_on_probation_is_nothing_to_come_back_to(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1", "m@2", "m@3")
    core.enrol("a")
    listener = listener_of(core)
    device = promoted(core, listener, "m@1")["a"]
    core.create("m@2", waves=("100%",))
    core.rounds()
    trial = core.assigned("a")
    assert trial is not None
    device.commit(trial)
    assert device.update is not None
    device.update = device.update.model_copy(update={"outcome": "pending"})
    tell(core, listener, device.says())
    with core.store.write() as records:
        command(records, 2, Step.ABORT, "another one is better", core.clock.now())

    core.create("m@3", waves=("100%",))
    core.rounds()

    with core.store.read() as records:
        (member,) = records.rollouts.members(3)
    assert member.previous is not None
    assert member.previous.release == "m@1"
    core.close()


async def test_an_overlapping_rollout_is_refused(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1", "m@2")
    core.enrol("a", "b", tags=("site-a",))
    core.enrol("c")
    core.create("m@1", "tag=site-a")

    with pytest.raises(RejectedError) as caught:
        core.create("m@2", "all")
    core.create("m@2", "c")

    assert caught.value.code is Code.CONFLICT
    assert "rollout 1 (m@1, running) has 2 of the 3 devices" in caught.value.detail
    core.close()


@pytest.mark.parametrize(
    ("name", "selector", "code"),
    [
        ("m@9", "all", Code.NOT_FOUND),
        ("m@1", "tag=nobody", Code.NOT_ALLOWED),
        ("m@1", f"class={ARM}", Code.NOT_ALLOWED),
        ("m@1", "zebra", Code.NOT_FOUND),
        ("m@1", "colour=red", Code.SELECTOR_INVALID),
    ],
)
async def test_a_rollout_that_cannot_work_is_refused(
    tmp_path: Path, name: str, selector: str, code: Code
) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1")
    core.enrol("a")
    core.enrol("arm", device_class=ARM)

    with pytest.raises(RejectedError) as caught:
        core.create(name, selector)

    assert caught.value.code is code
    core.close()


async def test_operators_words_are_idempotent_and_checked(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1")
    core.enrol("a")
    core.create("m@1")
    now = core.clock.now()

    with core.store.write() as records:
        first = command(records, 1, Step.PAUSE, "wait", now)
        again = command(records, 1, Step.PAUSE, "wait", now)
        running = command(records, 1, Step.RESUME, "go", now)
        command(records, 1, Step.ABORT, "no", now)
        with pytest.raises(RejectedError) as caught:
            command(records, 1, Step.RESUME, "go", now)

    assert first == again
    assert running.resumed_at == now
    assert caught.value.code is Code.NOT_ALLOWED
    core.close()


async def test_less_accuracy_in_the_field_takes_the_cohort_back(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1", "m@2")
    core.enrol("a", "b")
    listener = listener_of(core)
    ingest = Ingest(MemoryBus(MemoryBroker(), "controller"), core.store, core.clock)
    devices = promoted(core, listener, "m@1")

    def measure(right: int) -> None:
        ingest.take(
            [
                device.telemetry(
                    device.window(
                        device.step,
                        started=core.clock.now(),
                        requests=400,
                        label_total=400,
                        label_ok=right,
                    )
                )
                for device in devices.values()
            ]
        )

    measure(370)
    number = core.create("m@2", waves=("100%",), accuracy_drop=2).id
    core.rounds(1)
    obey(core, listener, devices)
    measure(280)
    core.rounds()
    assert core.rollout(number).state is RolloutState.RUNNING
    core.rounds(10)
    obey(core, listener, devices)
    core.rounds(1)

    rollout = core.rollout(number)
    assert rollout.state is RolloutState.ROLLED_BACK
    assert "accuracy 92.5% before (n=800), 70.0% now (n=800)" in rollout.reason
    core.close()


async def test_the_monitor_adds_up_by_device_class_and_release(tmp_path: Path) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1")
    core.enrol("a", "b")
    listener = listener_of(core)
    ingest = Ingest(MemoryBus(MemoryBroker(), "controller"), core.store, core.clock)
    devices = promoted(core, listener, "m@1")
    latency = Sketch()
    latency.add(2_000_000)
    ingest.take(
        [
            it.telemetry(it.window(1, latency=latency, label_total=10, label_ok=9))
            for it in devices.values()
        ]
    )

    with core.store.read() as records:
        by_device = report(records, "device", since=START)
        (by_release,) = report(records, "release", since=START)
        nothing = report(records, "class", since=START, devices=frozenset())

    assert [line.device for line in by_device] == ["a", "b"]
    assert (by_release.release, by_release.devices) == ("m@1", 2)
    assert by_release.accuracy == pytest.approx(0.9)
    assert by_release.latency_ms(0.5) == pytest.approx(2.0, rel=0.016)
    assert nothing == ()
    core.close()


async def test_the_running_loop_picks_up_what_another_process_wrote(
    tmp_path: Path,
) -> None:
    core = Core(tmp_path / "db")
    core.releases("m@1")
    loop = Reconciler(
        core.store,
        core.catalog,
        core.assignments,
        SystemClock(),
        tick_s=0.01,
    )
    running = asyncio.create_task(loop.run())
    other = Core(core.path, catalog=core.catalog)

    other.enrol("a", "b")
    other.create("m@1", waves=("100%",))

    await until(lambda: core.assigned_devices() == ["a", "b"], "the assignments")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    other.close()
    core.close()
