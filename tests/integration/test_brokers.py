"""The brokers that a controller starts: found again, explained, ended."""

import asyncio
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from quarterdeck_controller.broker.embedded import EmbeddedBroker
from quarterdeck_controller.broker.mosquitto import MosquittoBroker, find_program
from quarterdeck_controller.broker.nats import NatsBroker
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_controller.broker.process import is_running
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.brokers import CLASS, RealYard, real_yard

KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


@pytest.fixture(params=KINDS)
async def yard(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[RealYard]:
    made = await real_yard(str(request.param), tmp_path, ("device-1",))
    yield made
    await made.end()


def pid_of(yard: RealYard) -> int:
    return int((yard.folder / "broker" / "broker.pid").read_text())


def command_of(pid: int) -> bytes:
    """Return the command line of a process, empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def again(yard: RealYard, port: int | None = None) -> EmbeddedBroker:
    """Return a second broker object for the same folder, as a new process has."""
    kind = NatsBroker if (yard.folder / "broker/nats.conf").exists() else None
    return (kind or MosquittoBroker)(
        yard.folder / "broker",
        "127.0.0.1",
        port or yard.broker._server.port,
        ca=yard.authority.root_file,
        certificate=yard.folder / "broker.pem",
        key=yard.folder / "broker.key",
        clock=SystemClock(),
    )


async def test_a_broker_that_a_killed_controller_left_is_replaced(
    yard: RealYard,
) -> None:
    left = pid_of(yard)
    successor = again(yard)

    await successor.start()

    yard.broker = successor
    assert pid_of(yard) != left
    assert command_of(pid_of(yard))
    assert not command_of(left)


async def test_a_stranger_with_the_written_pid_is_left_alone(yard: RealYard) -> None:
    await yard.broker.stop()
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    (yard.folder / "broker" / "broker.pid").write_text(f"{stranger.pid}\n")

    await yard.broker.start()

    assert stranger.returncode is None
    stranger.kill()
    await stranger.wait()


async def test_a_taken_port_is_named(yard: RealYard) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        await yard.broker.stop()

        with pytest.raises(RejectedError) as refused:
            await again(yard, port).start()

    assert refused.value.code is Code.PORT_TAKEN
    assert str(port) in refused.value.detail


async def test_a_broker_that_cannot_start_shows_the_end_of_its_log(
    yard: RealYard,
) -> None:
    await yard.broker.stop()
    (yard.folder / "broker.key").write_text("not a key")

    with pytest.raises(RejectedError) as refused:
        await yard.broker.start()

    assert refused.value.code is Code.BROKER_FAILED
    assert "key" in refused.value.detail.partition("the end of")[2]


async def test_a_folder_that_cannot_be_written_is_named(yard: RealYard) -> None:
    (yard.folder / "in the way").write_text("no folder")
    broker = NatsBroker(
        yard.folder / "in the way",
        "127.0.0.1",
        1,
        ca=yard.authority.root_file,
        certificate=yard.folder / "broker.pem",
        key=yard.folder / "broker.key",
        clock=SystemClock(),
    )

    with pytest.raises(RejectedError) as refused:
        await broker.start()

    assert refused.value.code is Code.BROKER_FAILED
    assert "in the way" in refused.value.detail


async def test_a_broker_that_is_stuck_since_its_disk_was_full_is_ended(
    tmp_path: Path,
) -> None:
    yard = await real_yard("nats", tmp_path, ())
    ended = asyncio.create_task(yard.broker.ended())

    with (tmp_path / "broker" / "nats.log").open("ab") as log:
        log.write(b"[1] [ERR] Critical write error: no space left on device\n")

    async with asyncio.timeout(10):
        error = await ended
    assert error.code is Code.BROKER_FAILED
    assert "could not write, and was ended" in error.detail
    assert not command_of(pid_of(yard))


async def test_a_broker_that_dies_is_noticed(yard: RealYard) -> None:
    ended = asyncio.create_task(yard.broker.ended())

    os.kill(pid_of(yard), signal.SIGKILL)

    async with asyncio.timeout(5):
        error = await ended
    assert error.code is Code.BROKER_FAILED


async def test_nothing_is_left_when_it_was_stopped(yard: RealYard) -> None:
    pid = pid_of(yard)

    await yard.broker.stop()
    await yard.broker.stop()

    assert not Path(f"/proc/{pid}").exists()
    assert not (yard.folder / "broker" / "broker.pid").exists()


async def test_generated_files_are_for_the_owner_only(yard: RealYard) -> None:
    folder = yard.folder / "broker"
    written = [it for it in folder.iterdir() if it.suffix in {".conf", ".acl"}]

    assert written
    assert all(stat.S_IMODE(it.stat().st_mode) == 0o600 for it in written)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_it_listens_on_its_own_address_only(yard: RealYard) -> None:
    pid = pid_of(yard)

    listening = listening_sockets(pid)

    assert listening
    assert all(address.startswith("0100007F:") for address in listening)


def listening_sockets(pid: int) -> list[str]:
    inodes = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        target = str(handle.readlink())
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[9] in inodes and columns[3] == "0A":
                addresses.append(columns[1])
    return addresses


async def test_ten_thousand_devices_can_be_granted(yard: RealYard) -> None:
    grants = [Grant(f"device-{n}", CLASS) for n in range(10_000)]
    newest = yard.bus("device-9999")
    await newest.start()

    await yard.broker.admit(Admission(tuple(grants)))

    await newest.wait_connected(30)
    heard: list[bytes] = []
    controller = yard.bus("controller")
    await controller.start()
    await controller.wait_connected(30)
    await controller.subscribe(
        topics.up_any(topics.UP_EVENT), lambda m: heard.append(m.payload)
    )
    await says(newest, heard)
    assert heard


async def says(device: MqttBus, heard: list[bytes]) -> None:
    """Return once the controller hears ``device``: a reload takes its time."""
    async with asyncio.timeout(20):
        while not heard:
            await device.wait_connected(10)
            await device.publish(topics.up("device-9999", topics.UP_EVENT), b"here")
            await asyncio.sleep(0.1)


def test_a_missing_mosquitto_is_told_with_the_command_to_install_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(RejectedError) as refused:
        find_program(str(tmp_path))

    assert refused.value.code is Code.BROKER_MISSING
    assert "apt-get install mosquitto" in refused.value.detail


def test_a_process_is_recognized_by_its_whole_command_line() -> None:
    own = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")

    assert is_running(os.getpid(), own)
    assert not is_running(os.getpid(), [*own, "more"])
    assert not is_running(2**22 - 1, own)


async def test_a_configuration_that_is_refused_is_told_and_cuts_nobody(
    tmp_path: Path,
) -> None:
    yard = await real_yard("nats", tmp_path, ("device-1",))
    flavour = yard.broker._flavour
    device = yard.bus("device-1")
    await device.start()
    await device.wait_connected(10)
    lost: list[int] = []
    device.on_disconnected(lambda: lost.append(1))
    yard.broker._flavour = replace(flavour, files=lambda *_: {"nats.conf": "{"})
    admission = Admission((Grant("device-1", CLASS), Grant("device-2", CLASS)))

    with pytest.raises(RejectedError) as refused:
        await yard.broker.admit(admission)
    yard.broker._flavour = flavour
    await yard.broker.admit(admission)  # the same again is not taken for done

    assert refused.value.code is Code.BROKER_FAILED
    assert "refused its new configuration" in refused.value.detail
    assert lost == []
    newcomer = yard.bus("device-2")
    await newcomer.start()
    await newcomer.wait_connected(10)
    await yard.end()


async def test_an_admission_while_the_broker_is_down_holds_when_it_is_up(
    yard: RealYard,
) -> None:
    await yard.go_down()

    await yard.broker.admit(
        Admission((Grant("device-1", CLASS), Grant("device-2", CLASS)))
    )
    await yard.come_up()

    newcomer = yard.bus("device-2")
    await newcomer.start()
    await newcomer.wait_connected(10)
    await newcomer.publish(topics.up("device-2", topics.UP_EVENT), b"here")
    assert newcomer.connected
