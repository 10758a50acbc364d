"""Prepare tasks and print where their files are: ``... .tasks [NAME ...]``."""

import argparse
import sys

from tests.bench.quantization.fetch import UnavailableError
from tests.bench.quantization.task import prepared
from tests.bench.quantization.tasks.registry import RECIPES


def main() -> int:
    """Prepare what was asked for; 1 when something could not be had here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    given = parser.parse_args()
    unknown = sorted(set(given.names) - RECIPES.keys())
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(RECIPES)}")
    failed = 0
    for name in given.names or RECIPES:
        try:
            task = prepared(RECIPES[name])
        except UnavailableError as error:
            failed = 1
            sys.stdout.write(f"{name}: {error}\n")
            continue
        sys.stdout.write(
            f"{name}: {task.notes}\n  --metric {task.metric}\n  model {task.model}\n"
            f"  --calibration {task.calibration}\n  --evaluation {task.evaluation}\n"
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
