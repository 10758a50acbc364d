"""Machines become devices and stay it, over real brokers and a whole controller."""

import asyncio
import contextlib
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from quarterdeck_agent.identity.key import load_key, make_key
from quarterdeck_agent.identity.openssl import OpenSsl
from quarterdeck_agent.settings import endpoint
from quarterdeck_agent.status import read_status
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_shared import topics
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError
from tests.support.enrolling import (
    CLASS,
    Fleet,
    certificate,
    command,
    running_fleet,
    settings,
)
from tests.support.identities import device_identity

pytestmark = pytest.mark.asyncio(loop_scope="module")
KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
PATIENCE_S = 25
SHORT = timedelta(seconds=120)
"""A life of which two thirds are over at once, because certificates are backdated."""


@pytest_asyncio.fixture(params=KINDS, scope="module", loop_scope="module")
async def each(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    async with running_fleet(folder, request.param) as fleet:
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with running_fleet(tmp_path_factory.mktemp("one")) as fleet:
        yield fleet


@pytest.fixture
def fleet(each: Fleet) -> Iterator[Fleet]:
    """Give a fleet on each broker, without the agents of the test before."""
    yield each
    each.halt()


@pytest.fixture
def one(embedded: Fleet) -> Iterator[Fleet]:
    """Give a fleet on the embedded broker, for what no broker decides."""
    yield embedded
    embedded.halt()


async def until_status(
    bundle: Path, holds: Callable[[dict[str, object]], object], what: str
) -> dict[str, object]:
    """Wait until an agent's status is so, and return it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                shown = read_status(bundle / "state")
                if holds(shown):
                    return shown
                await asyncio.sleep(0.05)
    raise AssertionError(f"never saw: {what}; the last was {shown}")


def identity(shown: dict[str, object]) -> dict[str, object]:
    told = shown.get("identity")
    return told if isinstance(told, dict) else {}


def is_in(shown: dict[str, object]) -> bool:
    """Return whether the device is connected under a certificate of its own."""
    return bool(shown.get("connected")) and bool(identity(shown).get("enrolled"))


# -- enrolment -------------------------------------------------------------------------


async def test_a_machine_enrols_and_its_agent_is_let_in(fleet: Fleet) -> None:
    bundle = fleet.newcomer()

    done = await command(bundle, "enrol", "--json")

    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert told["enrolled"]
    assert not told["was_enrolled"]
    assert told["generation"] == 1
    assert not (bundle / "token").exists()
    assert not (bundle / "claim.pem").exists()
    fleet.run(bundle)
    shown = await until_status(bundle, is_in, "the agent connected")
    assert identity(shown)["key_id"] == told["key_id"]
    assert identity(shown)["code"] is None


async def test_an_agent_enrols_by_itself_and_the_token_is_in_no_log(
    fleet: Fleet,
) -> None:
    bundle = fleet.newcomer()
    token = (bundle / "token").read_bytes().strip()

    fleet.run(bundle)

    await until_status(bundle, is_in, "the agent connected")
    assert not (bundle / "token").exists()
    assert token not in (bundle / "log").read_bytes()
    assert token not in (bundle / "state" / "status.json").read_bytes()


async def test_a_second_run_changes_nothing_and_says_until_when(one: Fleet) -> None:
    bundle = one.newcomer()
    await command(bundle, "enrol")
    before = (bundle / "state" / "identity.pem").read_bytes()

    done = await command(bundle, "enrol")

    assert done.returncode == 0
    assert "already enrolled until" in done.stdout
    assert (bundle / "state" / "identity.pem").read_bytes() == before


@pytest.mark.parametrize("way", ["argument", "file", "input", "environment"])
async def test_the_token_comes_from_where_it_is_kept(
    one: Fleet, tmp_path: Path, way: str
) -> None:
    bundle = one.newcomer()
    token = (bundle / "token").rename(tmp_path / "elsewhere").read_text().strip()

    match way:
        case "argument":
            done = await command(bundle, "enrol", "--token", token)
        case "file":
            path = str(tmp_path / "elsewhere")
            done = await command(bundle, "enrol", "--token-file", path)
        case "input":
            given = token.encode() + b"\n"
            done = await command(bundle, "enrol", "--token-file", "-", given=given)
        case _:
            done = await command(
                bundle, "enrol", environment={"QUARTERDECK_ENROL_TOKEN": token}
            )

    assert done.returncode == 0, done.stderr
    assert ("list of processes" in done.stderr) == (way == "argument")
    assert token not in done.stdout + done.stderr


async def test_a_new_token_replaces_the_identity(one: Fleet) -> None:
    bundle = one.newcomer()
    await command(bundle, "enrol")
    (again,) = one.invite(bundle.name, again=True)
    for name in ("claim.pem", "token"):
        (again / name).rename(bundle / name)

    done = await command(bundle, "enrol", "--again", "--json")

    assert json.loads(done.stdout)["generation"] == 2, done.stderr
    one.run(bundle)
    await until_status(bundle, is_in, "the agent connected")


async def test_a_token_lets_one_machine_in_and_no_second(one: Fleet) -> None:
    bundle = one.newcomer()
    thief = bundle.with_name(f"{bundle.name}-thief")
    shutil.copytree(bundle, thief)
    await command(bundle, "enrol")

    done = await command(thief, "enrol")

    assert done.returncode == 1
    assert "error token_invalid" in done.stderr
    assert "device enrol ID" in done.stderr
    assert not (thief / "state" / "identity.pem").exists()
    assert (thief / "token").exists()


async def test_two_machines_at_once_with_one_token_are_one_device_in_the_end(
    one: Fleet,
) -> None:
    bundle = one.newcomer()
    twin = bundle.with_name(f"{bundle.name}-twin")
    shutil.copytree(bundle, twin)

    done = await asyncio.gather(command(bundle, "enrol"), command(twin, "enrol"))

    assert sorted(it.returncode for it in done) == [0, 1]
    assert [certificate(bundle), certificate(twin)].count(None) == 1


async def test_a_token_of_another_device_is_refused(one: Fleet) -> None:
    mine, others = one.newcomer(), one.newcomer()
    (others / "token").replace(mine / "token")

    done = await command(mine, "enrol")

    assert done.returncode == 1
    assert "error token_invalid" in done.stderr


async def test_an_agent_with_a_refused_token_goes_on_and_takes_the_next(
    one: Fleet,
) -> None:
    bundle = one.newcomer()
    good = (bundle / "token").read_bytes()
    (bundle / "token").write_bytes(secrets.token_urlsafe(32).encode())
    agent = one.run(bundle)
    shown = await until_status(
        bundle, lambda s: identity(s).get("code") == "token_invalid", "the refusal"
    )

    (bundle / "token").write_bytes(good)

    await until_status(bundle, is_in, "the agent connected")
    assert not identity(shown)["enrolled"]
    assert agent.poll() is None


async def test_without_a_token_the_agent_runs_and_says_what_it_lacks(
    one: Fleet,
) -> None:
    bundle = one.newcomer()
    (bundle / "token").unlink()
    agent = one.run(bundle)

    shown = await until_status(bundle, lambda s: identity(s).get("code"), "a code")

    assert identity(shown)["code"] == "not_enrolled"
    assert agent.poll() is None
    done = await command(bundle, "status")
    assert "quarterdeck-agent enrol" in done.stdout


async def test_it_waits_for_a_controller_that_is_away(one: Fleet) -> None:
    bundle = one.newcomer()
    await one.stop()
    asking = asyncio.create_task(command(bundle, "enrol"))
    await asyncio.sleep(1)
    key = (bundle / "state" / "identity.new.pem").read_bytes()

    await one.start()

    done = await asking
    assert done.returncode == 0, done.stderr
    assert "broker_unreachable" in done.stderr
    assert key in (bundle / "state" / "identity.pem").read_bytes()


async def test_it_gives_up_when_told_to_and_goes_on_with_the_same_key(
    one: Fleet,
) -> None:
    bundle = one.newcomer()
    await one.stop()

    gave_up = await command(bundle, "enrol", "--wait", "1")

    assert gave_up.returncode == 1
    assert "error timed_out: gave up after 1 s" in gave_up.stderr
    key = (bundle / "state" / "identity.new.pem").read_bytes()
    await one.start()
    await command(bundle, "enrol")
    assert key in (bundle / "state" / "identity.pem").read_bytes()


async def test_a_bundle_that_lacks_something_is_one_clear_message(one: Fleet) -> None:
    bundle = one.newcomer()
    claim = bundle / "claim.pem"
    kept = claim.read_bytes()

    for damage in (claim.unlink, lambda: claim.write_bytes(kept[:300])):
        damage()
        done = await command(bundle, "enrol")

        assert done.returncode == 1
        assert done.stderr.startswith("error settings_invalid: ")
        assert str(claim) in done.stderr
        assert done.stderr.count("\n") == 2


async def test_a_folder_that_an_agent_holds_is_left_to_it(one: Fleet) -> None:
    bundle = one.newcomer()
    token = (bundle / "token").rename(bundle / "elsewhere")
    agent = one.run(bundle)
    await until_status(bundle, lambda s: identity(s).get("code"), "an agent that waits")

    done = await command(bundle, "enrol", "--token-file", str(token))

    assert done.returncode == 1
    assert f"error not_allowed: process {agent.pid} runs an agent" in done.stderr
    assert f"put the token at {bundle / 'token'}" in done.stderr


async def test_a_machine_whose_disk_takes_no_key_says_so(one: Fleet) -> None:
    bundle = one.newcomer()
    (bundle / "state").mkdir()
    (bundle / "state" / "identity.new.pem.new").mkdir()  # where it would be written

    done = await command(bundle, "enrol")

    assert done.returncode == 1
    assert "error disk_failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert (bundle / "token").exists()


async def test_a_claim_can_do_nothing_but_ask(fleet: Fleet) -> None:
    mine, other = fleet.newcomer(), fleet.newcomer()
    claim = mine / "claim.pem"
    spy = MqttBus(
        endpoint(settings(mine), claim, claim),
        secrets.token_hex(16),
        clock=SystemClock(),
        rng=secrets.SystemRandom(),
    )
    heard: list[str] = []
    await spy.start()
    await spy.wait_connected(10)
    for pattern in (
        f"{topics.ROOT}/#",
        topics.enrol_any(),
        topics.CONTROLLER_STATE,
        topics.METADATA_TIMESTAMP,
        topics.down(other.name, topics.DOWN_CERTIFICATE),
        topics.up(other.name, topics.UP_STATE),
    ):
        with contextlib.suppress(QuarterdeckError):
            await spy.subscribe(pattern, lambda message: heard.append(message.topic))
    for topic in (
        topics.up(other.name, topics.UP_STATE),
        topics.up(other.name, topics.UP_CERTIFICATE),
        topics.CONTROLLER_STATE,
    ):
        with contextlib.suppress(QuarterdeckError, TimeoutError):
            async with asyncio.timeout(1):  # a broker may drop it without a word
                await spy.publish(topic, b"forged", retain=True)

    fleet.run(other)
    shown = await until_status(other, is_in, "the other device connected")

    await spy.close()
    assert identity(shown)["code"] is None
    assert not [it for it in heard if "/request" in it or "/device/" in it]
    assert topics.CONTROLLER_STATE not in heard


async def test_a_key_of_the_service_manager_stays_where_it_is(
    one: Fleet, tmp_path: Path
) -> None:
    bundle = one.newcomer()
    toml, credentials = bundle / "agent.toml", tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "key").write_bytes(make_key(tpm=False, openssl=OpenSsl()))
    (credentials / "key").chmod(0o400)
    (bundle / "token").rename(credentials / "token")
    where = "${CREDENTIALS_DIRECTORY}"
    text = toml.read_text().replace('token = "token"', f'token = "{where}/token"')
    text = text.replace("[identity]", f'[identity]\nkey = "{where}/key"', 1)
    toml.write_text(text)

    one.run(bundle, {"CREDENTIALS_DIRECTORY": str(credentials)})

    shown = await until_status(bundle, is_in, "the agent connected")
    assert identity(shown)["key"] == "elsewhere"
    assert b"PRIVATE" not in (bundle / "state" / "identity.pem").read_bytes()
    assert not (bundle / "claim.pem").exists()


# -- renewal ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_is_renewed_with_a_new_key_and_the_old_one_retired(
    tmp_path: Path, kind: str
) -> None:
    async with running_fleet(tmp_path, kind, lives=SHORT) as fleet:
        bundle = fleet.newcomer()
        await command(bundle, "enrol")
        first = certificate(bundle)
        fleet.run(bundle)

        shown = await until_status(
            bundle,
            lambda s: is_in(s) and identity(s)["generation"] == 2,
            "a renewed certificate in use",
        )

        assert first is not None
        assert identity(shown)["key_id"] != first.key_id
        assert not identity(shown)["code"]
        await _until_retired(fleet, bundle.name, 1)


async def test_a_key_of_which_there_is_a_certificate_is_not_certified_twice(
    tmp_path: Path,
) -> None:
    async with running_fleet(tmp_path, lives=SHORT) as fleet:
        bundle = fleet.newcomer()
        await command(bundle, "enrol")
        state = bundle / "state"
        used = (state / "identity.pem").read_bytes()
        key, _, _ = used.partition(b"-----BEGIN CERTIFICATE-----")
        (state / "identity.new.pem").write_bytes(key)  # as if it had been asked for

        fleet.run(bundle)

        shown = await until_status(
            bundle,
            lambda s: is_in(s) and identity(s)["generation"] == 2,
            "a renewed certificate in use, of another key",
        )
        assert identity(shown)["key_id"] != load_key(key, OpenSsl()).key_id


async def test_a_certificate_that_is_never_let_in_costs_nothing(one: Fleet) -> None:
    bundle = one.newcomer()
    await command(bundle, "enrol")
    stranger = device_identity(
        Authority.open(one.home.authority), bundle.name, CLASS, generation=99
    )
    (bundle / "state" / "identity.new.pem").write_bytes(stranger.pem)
    agent = one.run(bundle)

    shown = await until_status(
        bundle,
        lambda s: is_in(s) and identity(s)["code"],
        "the trouble while connected",
    )

    assert identity(shown)["generation"] == 1
    assert identity(shown)["new"]
    assert agent.poll() is None


# -- trouble ---------------------------------------------------------------------------


async def test_an_expired_certificate_stops_nothing_and_a_token_mends_it(
    tmp_path: Path,
) -> None:
    async with running_fleet(tmp_path, lives=timedelta(seconds=2)) as fleet:
        bundle = fleet.newcomer()
        await command(bundle, "enrol")
        await asyncio.sleep(2.5)
        agent = fleet.run(bundle)

        shown = await until_status(
            bundle, lambda s: identity(s).get("code"), "the trouble"
        )

        assert identity(shown)["code"] == "certificate_invalid"
        assert "it expired" in str(identity(shown)["detail"])
        assert agent.poll() is None
        (again,) = fleet.invite(bundle.name, again=True)
        for name in ("claim.pem", "token"):
            (again / name).rename(bundle / name)
        await until_status(
            bundle, lambda s: identity(s)["generation"] == 2, "a new certificate"
        )


async def test_a_revoked_device_goes_on_and_says_so(fleet: Fleet) -> None:
    bundle = fleet.newcomer()
    agent = fleet.run(bundle)
    await until_status(bundle, is_in, "the agent connected")

    with fleet.records() as records:
        records.devices.revoke(bundle.name, "stolen", SystemClock().now())

    shown = await until_status(
        bundle,
        lambda s: not s.get("connected") and identity(s).get("code"),
        "the trouble",
    )
    assert identity(shown)["code"] in {Code.BROKER_REFUSED, Code.CERTIFICATE_INVALID}
    assert agent.poll() is None


async def test_a_damaged_identity_stops_nothing(one: Fleet) -> None:
    bundle = one.newcomer()
    await command(bundle, "enrol")
    file = bundle / "state" / "identity.pem"
    file.write_bytes(file.read_bytes()[:150])
    agent = one.run(bundle)

    shown = await until_status(bundle, lambda s: identity(s).get("code"), "the trouble")

    assert not identity(shown)["enrolled"]
    assert agent.poll() is None


async def _until_retired(fleet: Fleet, device: str, generation: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with fleet.records() as records:
                retired = {
                    it.generation
                    for it in records.certificates.of(device)
                    if it.retired_at is not None
                }
            if generation in retired:
                return
            await asyncio.sleep(0.1)
