"""A bounded queue where nobody takes more than a share, emptied in batches."""

import asyncio
from collections import Counter
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Desk(Generic[_Item]):
    """Takes in what strangers send, and gives it out many at a time."""

    def __init__(self, *, room: int, batch: int, gather_s: float) -> None:
        """Take the bounds.

        Args:
            room: Most items that wait.
            batch: Most items given out at once.
            gather_s: How long the first of a batch waits for company, so that one
                transaction and one reload of the broker serve many.
        """
        self._queue: asyncio.Queue[tuple[tuple[str, ...], _Item]] = asyncio.Queue(room)
        self._waiting: Counter[str] = Counter()
        self._batch = batch
        self._gather_s = gather_s

    def put(self, item: _Item, **shares: tuple[str, int]) -> bool:
        """Take ``item`` in, or return False when there is no room for it.

        Each share names a sender in some respect, and how many of its items may wait.
        """
        keys = tuple(f"{kind}:{name}" for kind, (name, _) in shares.items())
        most = (limit for _, limit in shares.values())
        if any(self._waiting[it] >= n for it, n in zip(keys, most, strict=True)):
            return False
        try:
            self._queue.put_nowait((keys, item))
        except asyncio.QueueFull:
            return False
        self._waiting.update(keys)
        return True

    async def take(self) -> list[_Item]:
        """Return the next batch; wait until there is one."""
        first = await self._queue.get()
        await asyncio.sleep(self._gather_s)
        taken = [first]
        while not self._queue.empty() and len(taken) < self._batch:
            taken.append(self._queue.get_nowait())
        for keys, _ in taken:
            self._waiting.subtract(keys)
            for key in keys:
                if not self._waiting[key]:
                    del self._waiting[key]
        return [item for _, item in taken]
