"""An operator who types commands, and what comes back."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quarterdeck_controller.cli import main
from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import Settings
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_shared.clock import SystemClock
from tests.support.releases import write_variants

CLOCK = SystemClock()


@dataclass
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


class Operator:
    """Types commands."""

    def __init__(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        settings = Settings(
            fleet="test", classes=("cam", "gateway"), chunk_bytes=1024, test=True
        )
        self.home = create_home(path / "home", settings, CLOCK)
        self.path = path
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def types(self, *words: object) -> Said:
        arguments = ["quarterdeck", *map(str, words), "--home", str(self.home.path)]
        self._monkeypatch.setattr(sys, "argv", arguments)
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        return Said(_code(ended.value.code), printed.out, printed.err)

    def enrols(self, device: str, device_class: str = "gateway", *more: object) -> Said:
        folder = self.path / "bundles" / device
        folder.parent.mkdir(exist_ok=True)
        return self.types(
            "device", "enrol", device, "--class", device_class, "--out", folder, *more
        )

    def releases(self, version: int) -> None:
        folder = self.path / f"variants-{version}"
        write_variants(folder, name="m", classes=("gateway",), home=self.home)
        create_release(self.home, folder, "m", version, CLOCK)


def _code(code: str | int | None) -> int:
    return code if isinstance(code, int) else 0
