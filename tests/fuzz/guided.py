"""``python -m tests.fuzz.guided --seconds 60 NAME``: fuzz one target with atheris.

It needs atheris in the environment, which is none of the project's dependencies. Our
packages are instrumented while they are imported, so that inputs are kept that reach
new code; the corpus begins with the target's good inputs.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

PACKAGES = ["quarterdeck_shared", "quarterdeck_agent", "quarterdeck_controller"]
LONGEST = 64 * 1024


def main() -> None:
    """Fuzz until the time is over; a finding ends the process with its input."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.guided", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("name")
    given = parser.parse_args()
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=PACKAGES):
        targets = importlib.import_module("tests.fuzz.targets").targets()
    (target,) = (it for it in targets if it.name == given.name)
    with tempfile.TemporaryDirectory(prefix="quarterdeck-corpus-") as corpus:
        for number, seed in enumerate(target.seeds):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={given.seconds}", f"-max_len={LONGEST}"]
        atheris.Setup([sys.argv[0], *limits, corpus], lambda data: bool(target(data)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
