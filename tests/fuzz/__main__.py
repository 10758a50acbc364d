"""``python -m tests.fuzz --seconds 60 [WORD]``: fuzz every target whose name has WORD.

The time is shared evenly. The exit code is 1 when something was found. Where atheris is
installed, ``python -m tests.fuzz.guided`` finds inputs by the code that they reach.
"""

import argparse
import sys
from collections.abc import Callable
from time import perf_counter

from tests.fuzz.engine import Outcome, run
from tests.fuzz.targets import targets


def main() -> int:
    """Fuzz as the arguments say, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("word", nargs="?", default="")
    given = parser.parse_args()
    chosen = [target for target in targets() if given.word in target.name]
    share = given.seconds / max(1, len(chosen))
    outcomes = []
    for target in chosen:
        ends = perf_counter() + share
        outcome = run(target, _until(ends), given.seed)
        outcomes.append(outcome)
        sys.stdout.write(_line(outcome))
    return _summary(outcomes)


def _until(ends: float) -> Callable[[Outcome], bool]:
    return lambda _: perf_counter() < ends


def _line(outcome: Outcome) -> str:
    found = "".join(
        f"\n    {what}\n    {data[:200]!r}" for what, data in outcome.findings.items()
    )
    return (
        f"{outcome.executions:8} executions, {outcome.accepted:7} accepted, slowest "
        f"{outcome.slowest_s * 1000:7.1f} ms  {outcome.name}{found}\n"
    )


def _summary(outcomes: list[Outcome]) -> int:
    executions = sum(outcome.executions for outcome in outcomes)
    findings = sum(len(outcome.findings) for outcome in outcomes)
    sys.stdout.write(
        f"{executions} executions of {len(outcomes)} targets, {findings} findings\n"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
