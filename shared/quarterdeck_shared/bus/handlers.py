"""Who hears what on one session: patterns, their handlers, and the dispatch."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from quarterdeck_shared.bus.port import Handler, Message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One pattern with who hears it."""

    pattern: str
    handler: Handler
    qos: int


class Handlers:
    """The subscriptions of a session, which outlive its connections."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, Subscription] = {}

    def add(self, subscription: Subscription) -> None:
        """Remember ``subscription``; it replaces one of the same pattern."""
        self._subscriptions[subscription.pattern] = subscription

    def remove(self, pattern: str) -> None:
        """Forget ``pattern``; one that is not there is no error."""
        self._subscriptions.pop(pattern, None)

    def all(self) -> tuple[Subscription, ...]:
        """Return every subscription in the order they were made."""
        return tuple(self._subscriptions.values())

    def dispatch(self, message: Message) -> None:
        """Call every handler whose pattern matches.

        A handler that raises is a bug of its owner: it is logged, and must not take
        the session down with it.
        """
        for subscription in self.all():
            if matches(subscription.pattern, message.topic):
                try:
                    subscription.handler(message)
                except Exception:
                    log.exception(
                        "event=handler_failed pattern=%s: a handler raised",
                        subscription.pattern,
                    )


def matches(pattern: str, topic: str) -> bool:
    """Return whether the MQTT filter ``pattern`` covers ``topic``."""
    if pattern == topic:
        return True
    if "+" not in pattern and "#" not in pattern:
        return False
    return _matches_levels(pattern.split("/"), topic.split("/"))


def _matches_levels(wanted: list[str], levels: list[str]) -> bool:
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at == len(levels) or level not in {"+", levels[at]}:
            return False
    return len(wanted) == len(levels)


def call_all(callbacks: list[Callable[[], None]]) -> None:
    """Call each of ``callbacks``; one that raises does not stop the others."""
    for callback in tuple(callbacks):
        try:
            callback()
        except Exception:
            log.exception("event=callback_failed: a session callback raised")
