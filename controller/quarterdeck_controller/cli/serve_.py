"""``quarterdeck serve``: run the controller until it is told to stop."""

import asyncio
import contextlib
import logging
import secrets
import signal
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.opened import opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption
from quarterdeck_controller.cli.output import err
from quarterdeck_controller.home import Home
from quarterdeck_controller.service import serve, unwrap
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.plain import plain

BOOT_BITS = 53
"""What fits into a JSON number that every reader reads exactly."""


class OneLine(logging.Filter):
    """One message, one line: no device writes lines of its own into the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let ``record`` pass, with its message made plain."""
        record.msg, record.args = plain(record.getMessage()), None
        return True


def command(
    home: HomeOption = DEFAULT_HOME,
    verbose: Annotated[bool, typer.Option(help="Log repeats and details too.")] = False,
) -> None:
    """Run the controller and, by default, its broker, until Ctrl-C or SIGTERM."""
    handler = logging.StreamHandler()
    handler.addFilter(OneLine())
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s %(message)s",
        handlers=[handler],
    )
    logging.getLogger("tuf").setLevel(logging.WARNING)
    with opened(home, Act.SERVE) as fleet:
        try:
            asyncio.run(_until_told(fleet.home))
        except BaseExceptionGroup as group:
            error = unwrap(group)
            if error is None:
                raise
            raise error from group


async def _until_told(home: Home) -> None:
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, me.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        boot = secrets.randbits(BOOT_BITS)
        await serve(
            home, SystemClock(), secrets.SystemRandom(), boot=boot, ready=_ready
        )
    err.print("controller stopped")


def _ready(where: str, *, connected: bool) -> None:
    if connected:
        err.print(f"controller ready, broker at {where}; stop with Ctrl-C")
    else:
        err.print(
            f"controller running, but not let in by the broker at {where} yet;"
            " it goes on trying; stop with Ctrl-C"
        )
