"""Commands typed into one process, and what came of them."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quarterdeck_controller.cli import main
from quarterdeck_controller.cli.options import GIVEN
from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import Settings
from quarterdeck_controller.store.ledger import Raw
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import SystemClock


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.out)
        return found

    @property
    def told(self) -> str:
        """Its explanation on standard error, on one line."""
        return " ".join(self.err.split())


class Deck:
    """A fleet home, and somebody who types commands about it."""

    def __init__(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        settings = Settings(
            fleet="test", classes=("cam", "gateway"), chunk_bytes=1024, test=True
        )
        self.home = create_home(path / "home", settings, SystemClock())
        self.path = path
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        for name in ("TOKEN", "TOKEN_FILE", "IDENTITY"):
            monkeypatch.delenv(f"QUARTERDECK_{name}", raising=False)

    def types(self, *words: object, typed: str = "") -> Said:
        """Run one command on the home; ``typed`` is what is put in."""
        arguments = ["quarterdeck", *map(str, words), "--home", str(self.home.path)]
        return self.runs(*arguments, typed=typed)

    def runs(self, *arguments: str, typed: str = "") -> Said:
        """Run one command, word by word as given."""
        self._monkeypatch.setattr(sys, "argv", list(arguments))
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        self._capsys.readouterr()
        GIVEN.set(None)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, printed.out, printed.err)

    def hires(self, name: str, role: str, *more: object) -> str:
        """Add an operator and return their token."""
        said = self.types("operator", "add", name, "--role", role, "--json", *more)
        assert said.code == 0, said.err
        token = said.value["token"]
        assert isinstance(token, str)
        return token

    def becomes(self, token: str | None) -> None:
        """Type as whoever has ``token`` from now on; None for nobody."""
        if token is None:
            self._monkeypatch.delenv("QUARTERDECK_TOKEN", raising=False)
        else:
            self._monkeypatch.setenv("QUARTERDECK_TOKEN", token)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open the database as the controller does."""
        with Store.open(self.home.database) as store:
            yield store

    def entries(self) -> list[dict[str, Any]]:
        """Return the audit log, oldest first."""
        with self.store() as store, store.read() as records:
            return [_fields(it) for it in records.audit.every()]


def _fields(row: Raw) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(row.body or b"")
    return fields
