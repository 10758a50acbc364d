"""Inputs that nobody would think of, and what came of each.

``mutated`` changes good inputs without knowing what is read; ``run`` counts what
happened, with the processor time that the slowest input took.
"""

import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import process_time

from tests.fuzz.targets import Target

LONGEST = 64 * 1024
TOKENS = (
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"9" * 400,
    b'""',
    b"[]",
    b"{}",
    b"[" * 2000,
    b'{"a":' * 500,
    b"\\u0000",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"NaN",
    b"\x00",
    b"\x80" * 12,
    b"\xff" * 12,
    b"-----BEGIN CERTIFICATE-----\n",
    b"../",
    b"2026-02-30T00:00:00Z",
    b"0000-00-00T00:00:00Z",
)


@dataclass
class Outcome:
    """What came of fuzzing one target.

    Attributes:
        findings: The error and the input of each different one.
    """

    name: str
    executions: int = 0
    accepted: int = 0
    slowest_s: float = 0.0
    slowest: bytes = b""
    findings: dict[str, bytes] = field(default_factory=dict)

    def take(self, target: Target, data: bytes) -> None:
        """Try one input."""
        began = process_time()
        try:
            self.accepted += target(data)
        except Exception as error:  # noqa: BLE001 - any other error is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {where.name}, {where.filename}"
            if not any(known.startswith(kind) for known in self.findings):
                self.findings[f"{kind}: {error}"[:300]] = data
        lasted_s = process_time() - began
        if lasted_s > self.slowest_s:
            self.slowest_s, self.slowest = lasted_s, data
        self.executions += 1


def run(target: Target, more: Callable[[Outcome], bool], seed: int = 0) -> Outcome:
    """Try the seeds, then mutations, while ``more`` says so."""
    outcome, chance = Outcome(target.name), random.Random(seed)
    for data in target.seeds:
        outcome.take(target, data)
    for data in mutated(target.seeds, chance):
        if not more(outcome):
            break
        outcome.take(target, data)
    return outcome


def mutated(seeds: tuple[bytes, ...], chance: random.Random) -> Iterator[bytes]:
    """Yield changed inputs without end."""
    while True:
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
            data = chance.choice(_CHANGES)(data, chance)[:LONGEST]
        yield data


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return b"\0"
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _set(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[last:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    first, last = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    times = chance.choice((2, 3, 50))
    return data[:first] + data[first:last] * times + data[last:]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(TOKENS) + data[at:]


def _replace_token(data: bytes, chance: random.Random) -> bytes:
    """Put something else in the place of a JSON value."""
    parts = data.split(b":")
    at = chance.randrange(len(parts))
    head, comma, tail = parts[at].partition(b",")
    parts[at] = chance.choice(TOKENS) + comma + tail if comma else head + b"0"
    return b":".join(parts)


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


_CHANGES = (_flip, _set, _cut, _repeat, _insert, _replace_token, _truncate)
