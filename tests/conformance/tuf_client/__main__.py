"""The command line by which the public TUF conformance suite drives a client.

What it drives is the device's own: ``Refreshed`` verifies and ``MetadataFetcher``
brings every file over MQTT, one request for each. At the other end a gateway asks the
suite's server by HTTP (``broker.py``). Usage::

    CLIENT --metadata-dir D init ROOT
    CLIENT --metadata-url U --metadata-dir D refresh
    CLIENT --metadata-url U --metadata-dir D --target-name N --target-dir T
           --target-base-url B download

The exit code is 0 when all was verified and 1 when something was refused or could not
be had. ``TUF_CLIENT_BROKER`` names the folder of the running broker, ``TUF_CLIENT_NOW``
a reference time other than that of the clock.
"""

import argparse
import asyncio
import os
import random
import secrets
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient.config import UpdaterConfig

from quarterdeck_agent.update.metadata import MetadataFetcher
from quarterdeck_agent.update.refresh import Refreshed, Source
from quarterdeck_shared.bus.mqtt import MqttBus
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.errors import QuarterdeckError
from tests.conformance.tuf_client.broker import DEVICE, read_endpoint

BROKER, NOW = "TUF_CLIENT_BROKER", "TUF_CLIENT_NOW"
CONNECT_S, ANSWER_S = 10.0, 2.0
FAILURES = (RepositoryError, DownloadError, QuarterdeckError, OSError, ValueError)

Work = Callable[[MetadataFetcher], None]


def main() -> int:
    """Do what the arguments say and return the exit code."""
    given = _parser().parse_args()
    if given.command == "init":
        shutil.copyfile(given.root, given.metadata_dir / "root.json")
        return 0
    work = _refresh if given.command == "refresh" else _download
    try:
        asyncio.run(_connected(lambda fetcher: work(given, fetcher)))
    except FAILURES as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuf_client")
    parser.add_argument("--metadata-url")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


async def _connected(work: Work) -> None:
    """Do ``work`` in a thread, as the agent does, with a session on the broker."""
    endpoint = read_endpoint(Path(os.environ[BROKER]))
    clock, chance = SystemClock(), random.SystemRandom()
    bus = MqttBus(endpoint, secrets.token_hex(16), clock=clock, rng=chance)
    fetcher = MetadataFetcher(bus, DEVICE, asyncio.get_running_loop(), ANSWER_S)
    await bus.start()
    try:
        await bus.wait_connected(CONNECT_S)
        await fetcher.start()
        await asyncio.to_thread(work, fetcher)
    finally:
        await bus.close()


def _refresh(given: argparse.Namespace, fetcher: MetadataFetcher) -> None:
    _refreshed(given, fetcher)


def _download(given: argparse.Namespace, fetcher: MetadataFetcher) -> None:
    refreshed = _refreshed(given, fetcher)
    for name in given.target_name:
        listing = refreshed.listing(name)
        if listing is None:
            raise FileNotFoundError(f"nobody lists {name}")
        # A target's name may hold what no name of a file may.
        refreshed.bring(listing, given.target_dir / quote(name, ""))


def _refreshed(given: argparse.Namespace, fetcher: MetadataFetcher) -> Refreshed:
    source = Source(
        fetcher,
        given.metadata_dir,
        root=None,  # the suite hands the trusted root over in the cache
        config=UpdaterConfig(),  # its repositories are larger than a device's
        metadata_url=given.metadata_url,
        targets_url=given.target_base_url or "",
    )
    return Refreshed(source, _now())


def _now() -> datetime:
    stated = os.environ.get(NOW)
    if stated is None:
        return SystemClock().now()
    now = datetime.fromisoformat(stated)
    return now if now.tzinfo else now.replace(tzinfo=UTC)


if __name__ == "__main__":
    sys.exit(main())
