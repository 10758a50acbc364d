"""Waiting for something, but not longer than is useful."""

import asyncio
import contextlib


async def wait_at_most(event: asyncio.Event, timeout_s: float | None) -> None:
    """Return when ``event`` is set or ``timeout_s`` is over; None waits for ever."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
