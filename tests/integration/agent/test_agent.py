"""Whole agents as processes, over a real broker, with signed releases."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck_controller.identity.authority import Authority
from quarterdeck_shared import topics
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from tests.support.brokers import until
from tests.support.identities import device_identity, write_identity
from tests.support.site import (
    CLASS,
    Site,
    alive,
    command,
    running_site,
    status,
    stop,
    until_status,
)

DEVICE = "cam-1"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(tmp_path) as site:
        yield site


async def committed(site: Site, version: int = 1) -> Path:
    """Return the bundle of a device that runs a version, its agent being up."""
    bundle = await site.enrol(DEVICE)
    site.start(bundle)
    await site.assign(DEVICE, site.release(version), 1)
    await site.until_outcome(DEVICE, 1, "committed")
    return bundle


async def test_an_assigned_model_is_fetched_proven_run_and_reported(
    site: Site,
) -> None:
    bundle = await committed(site)
    seen = site.seen[DEVICE]
    await until(lambda: any(w.label_ok for w in seen.windows), "a window with labels")
    await until(lambda: any(e.event == "passed" for e in seen.events), "the last event")

    shown = await until_status(
        bundle, lambda s: s.get("windows_waiting") == 0, "acknowledged windows"
    )

    reported = seen.reported[-1]
    assert reported.active is not None
    assert reported.active.release == "model@1"
    assert reported.update is not None
    assert reported.update.received_bytes == (
        site.catalog.release("model@1").variants[CLASS].index.length
    )
    assert [event.event for event in seen.events if event.sequence == 1] == [
        "assigned",
        "fetched",
        "proved",
        "passed",
    ]
    assert seen.states[-1].online
    assert shown["serving"]
    assert shown["connected"]
    window = max(seen.windows, key=lambda w: w.requests)
    assert window.label_ok == window.label_total == window.requests > 0


async def test_a_model_that_is_wrong_is_rolled_back_and_quarantined(
    site: Site,
) -> None:
    bundle = await committed(site)
    bad = site.release(2, weight=1.0)

    await site.assign(DEVICE, bad, 2)
    await site.until_outcome(DEVICE, 2, "rolled_back")

    reported = site.seen[DEVICE].reported[-1]
    assert reported.active is not None
    assert reported.active.release == "model@1"
    assert reported.update is not None
    assert reported.update.code is Code.GOLDEN_FAILED
    assert [q.code for q in reported.quarantine] == [Code.GOLDEN_FAILED]
    assert status(bundle)["serving"]
    await site.assign(DEVICE, bad, 3)
    await site.until_outcome(DEVICE, 3, "refused")
    update = site.seen[DEVICE].reported[-1].update
    assert update is not None
    assert update.code is Code.QUARANTINED


async def test_going_back_to_the_previous_release_downloads_nothing(
    site: Site,
) -> None:
    await committed(site)
    await site.assign(DEVICE, site.release(2), 2)
    await site.until_outcome(DEVICE, 2, "committed")

    await site.assign(DEVICE, site.catalog.release("model@1"), 3)
    await site.until_outcome(DEVICE, 3, "committed")

    reported = site.seen[DEVICE].reported[-1]
    assert reported.active is not None
    assert reported.active.release == "model@1"
    assert reported.update is not None
    assert reported.update.received_bytes == 0


async def test_it_serves_what_it_has_when_it_starts_without_a_broker(
    site: Site,
) -> None:
    bundle = await committed(site)
    assert await stop(site.agents[0], signal.SIGINT) == 0
    await site.broker.stop()

    agent = site.start(bundle)
    shown = await until_status(
        bundle, lambda s: s.get("serving") and s.get("broker"), "serving offline"
    )
    kept = await until_status(
        bundle, lambda s: int(str(s.get("windows_waiting", 0))) > 1, "windows on disk"
    )

    assert not shown["connected"]
    assert kept["running"]
    assert isinstance(shown["broker"], dict)
    assert shown["broker"]["code"] == "broker_unreachable"
    await site.broker.start()
    # a window closes every half second: the newest may always be on its way
    await until_status(
        bundle,
        lambda s: s["connected"] and int(str(s["windows_waiting"])) <= 1,
        "all sent",
    )
    assert agent.poll() is None


async def test_it_stops_cleanly_and_leaves_nothing_running(site: Site) -> None:
    bundle = await committed(site)
    workers = status(bundle)["worker_pids"]
    assert isinstance(workers, list)
    assert all(alive(pid) for pid in workers)
    began = asyncio.get_running_loop().time()

    code = await stop(site.agents[0])

    assert code == 0
    assert asyncio.get_running_loop().time() - began < 5
    assert workers
    assert not any(alive(pid) for pid in workers)
    await until(lambda: not site.seen[DEVICE].states[-1].online, "the goodbye")


async def test_killed_it_leaves_no_worker_and_goes_on_after_a_start(
    site: Site,
) -> None:
    bundle = await committed(site)
    workers = status(bundle)["worker_pids"]
    assert isinstance(workers, list)

    site.agents[0].kill()
    site.agents[0].wait()
    await until(lambda: not any(alive(pid) for pid in workers), "the worker's end")
    site.start(bundle)
    shown = await until_status(bundle, lambda s: s.get("serving"), "serving again")

    assert isinstance(shown["active"], dict)
    assert shown["active"]["release"] == "model@1"
    maps = Path(f"/proc/{site.agents[1].pid}/maps").read_text()
    assert "onnxruntime" not in maps
    assert "numpy" not in maps


async def test_a_second_agent_on_one_state_folder_is_told_who_holds_it(
    site: Site,
) -> None:
    bundle = await committed(site)

    second = await asyncio.to_thread(
        subprocess.run, command(bundle, "run"), capture_output=True, check=False
    )

    assert second.returncode == 1
    assert b"duplicate_identity" in second.stderr
    assert str(site.agents[0].pid).encode() in second.stderr
    assert site.agents[0].poll() is None


async def test_an_assignment_that_nobody_signed_changes_nothing(site: Site) -> None:
    bundle = await committed(site)
    topic = topics.down(DEVICE, topics.DOWN_ASSIGNMENT)
    await site.bus.publish(topic, b'{"payload": "junk"}', retain=True)
    await until(
        lambda: any(e.event == "refused" for e in site.seen[DEVICE].events),
        "the refusal",
    )

    shown = await until_status(bundle, lambda s: s.get("refused"), "the refusal")

    assert site.seen[DEVICE].outcome(1) == "committed"
    assert isinstance(shown["refused"], dict)
    assert shown["refused"]["code"] == "malformed"


async def test_with_an_expired_certificate_it_goes_on_serving_and_says_so(
    site: Site,
) -> None:
    bundle = await committed(site)
    await stop(site.agents[-1])
    authority = Authority.open(site.home.authority, SystemClock())
    write_identity(bundle, device_identity(authority, DEVICE, CLASS, days=1e-6))
    await asyncio.sleep(1.1)  # a certificate counts in whole seconds

    site.start(bundle)

    shown = await until_status(
        bundle,
        lambda s: s.get("serving") and "certificate_invalid" in str(s["identity"]),
        "a model that is served, and the trouble",
    )
    assert not shown["connected"]
    assert "it expired" in str(shown["identity"])


async def test_a_missing_file_is_one_clear_message(site: Site) -> None:
    bundle = await site.enrol(DEVICE)

    for missing in ("ca.pem", "root.json", "agent.toml"):
        away = (bundle / missing).rename(bundle / "away")
        done = await asyncio.to_thread(
            subprocess.run, command(bundle, "run"), capture_output=True, check=False
        )
        away.rename(bundle / missing)

        assert done.returncode == 1
        assert missing.encode() in done.stderr
        assert b"settings_invalid" in done.stderr
        assert b"Traceback" not in done.stderr
