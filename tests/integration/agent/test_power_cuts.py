"""A whole agent whose record, floor and cache are found damaged after a power cut."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Message
from quarterdeck_shared.codes import Code
from quarterdeck_shared.events import StepEvent
from tests.support.brokers import until
from tests.support.site import (
    PATIENCE_S,
    Seen,
    Site,
    running_site,
    status,
    stop,
    until_status,
)

DEVICE = "cam-1"
RECORD = ("update.json", "update.copy.json")
FLOOR = ("trust/floor.json", "trust/floor.copy.json")
CACHE = ("trust/metadata/timestamp.json", "trust/metadata/snapshot.json")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(tmp_path) as site:
        yield site


async def grown(site: Site) -> tuple[Path, Path, bytes]:
    """Return an agent's bundle after two releases, its state after one, and the
    assignment of the first."""
    heard: list[bytes] = []

    def hear(message: Message) -> None:
        heard.append(message.payload)

    await site.bus.subscribe(topics.down(DEVICE, topics.DOWN_ASSIGNMENT), hear)
    bundle = await site.enrol(DEVICE)
    agent = site.start(bundle)
    await site.assign(DEVICE, site.release(1), 1)
    await site.until_outcome(DEVICE, 1, "committed")
    young = site.folder / "young"
    shutil.copytree(bundle / "state", young, symlinks=True)
    await site.assign(DEVICE, site.release(2), 2)
    await site.until_outcome(DEVICE, 2, "committed")
    await stop(agent)
    await until(lambda: len(heard) >= 1, "the first assignment")
    site.seen[DEVICE] = Seen()
    return bundle, young, heard[0]


def emptied(state: Path, *names: str) -> None:
    for name in names:
        (state / name).write_bytes(b"")


def refused(events: list[StepEvent], code: Code) -> bool:
    return any(it.event == "refused" and it.code is code for it in events)


@pytest.mark.parametrize(
    "names",
    [RECORD, (*RECORD, FLOOR[0], *CACHE), (RECORD[0], FLOOR[1])],
    ids=["record", "record, a floor and the cache", "one copy of each"],
)
async def test_an_agent_comes_back_to_what_it_was_assigned_last(
    site: Site, names: tuple[str, ...]
) -> None:
    bundle, _, old = await grown(site)
    emptied(bundle / "state", *names)

    site.start(bundle)
    await until_status(
        bundle, lambda s: _runs(s, "model@2") and s.get("serving"), "the release"
    )
    topic = topics.down(DEVICE, topics.DOWN_ASSIGNMENT)
    await site.bus.publish(topic, old, retain=True)

    events = site.seen[DEVICE].events
    await until(
        lambda: refused(events, Code.ASSIGNMENT_REPLAYED), "it", timeout_s=PATIENCE_S
    )
    assert _runs(status(bundle), "model@2")


async def test_an_older_record_beside_the_floor_is_brought_up_to_date(
    site: Site,
) -> None:
    bundle, young, _ = await grown(site)
    for name in RECORD:
        shutil.copy(young / name, bundle / "state" / name)

    site.start(bundle)

    await site.until_outcome(DEVICE, 2, "committed")
    assert _runs(status(bundle), "model@2")


async def test_without_a_floor_the_agent_goes_on_serving_and_accepts_nothing(
    site: Site,
) -> None:
    bundle, _, _ = await grown(site)
    for name in FLOOR:
        (bundle / "state" / name).unlink()
    site.start(bundle)
    await until_status(bundle, lambda s: s.get("serving"), "the release")

    await site.assign(DEVICE, site.release(3), 3)

    events = site.seen[DEVICE].events
    await until(lambda: refused(events, Code.FLOOR_DAMAGED), "it", timeout_s=PATIENCE_S)
    assert _runs(status(bundle), "model@2")


def _runs(shown: dict[str, object], release: str) -> bool:
    active = shown.get("active")
    return isinstance(active, dict) and active["release"] == release
