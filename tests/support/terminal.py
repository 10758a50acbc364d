"""The two programs as an operator runs them: by their commands, as real processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

INSTALLED = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def row(self) -> dict[str, Any]:
        """The one JSON object that ``--json`` printed, with nothing beside it."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The one JSON list that ``--json`` printed, with nothing beside it."""
        value = json.loads(self.out)
        assert isinstance(value, list)
        return value

    @property
    def told(self) -> str:
        """Its explanation on standard error, on one line."""
        return " ".join(self.err.split())


@dataclass(frozen=True, slots=True)
class Terminal:
    """Types commands in ``folder``; the fleet home is ``home`` there."""

    folder: Path

    def types(
        self, *words: object, environment: Mapping[str, str] = MappingProxyType({})
    ) -> Said:
        """Run ``quarterdeck`` to its end."""
        return self._run("quarterdeck", words, environment)

    def agent(self, *words: object) -> Said:
        """Run ``quarterdeck-agent`` to its end."""
        return self._run("quarterdeck-agent", words)

    def must(self, *words: object) -> dict[str, Any]:
        """Run ``quarterdeck ... --json``, which must go well; return its object."""
        said = self.types(*words, "--json")
        assert said.code == 0, said.err
        return said.row

    def lists(self, *words: object) -> list[dict[str, Any]]:
        """Run ``quarterdeck ... --json``, which must go well; return its list."""
        said = self.types(*words, "--json")
        assert said.code == 0, said.err
        return said.rows

    def starts(self, program: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a program that runs on, with its log in the folder."""
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [str(INSTALLED / program), *map(str, words)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
            )

    def _run(
        self,
        program: str,
        words: tuple[object, ...],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Said:
        done = subprocess.run(
            [str(INSTALLED / program), *map(str, words)],
            cwd=self.folder,
            env=self._environment() | dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def _environment(self) -> dict[str, str]:
        home = str(self.folder / "home")
        return os.environ | {"QUARTERDECK_HOME": home, "OMP_NUM_THREADS": "1"}


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
