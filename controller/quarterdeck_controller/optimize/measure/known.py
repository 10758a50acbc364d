"""Latencies measured on devices of a class, kept as files.

One file for each variant, float model, class and way to open it, named by the digest of
these. A file that cannot be read is passed over, and said: a measurement is lost, never
made up. What was measured longest ago goes when there are too many.
"""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from quarterdeck_shared.durable import disk_code, write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.latency import LatencyReport
from quarterdeck_shared.session import Session

MOST_ENTRIES = 4096
MAX_ENTRY_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Key:
    """What a latency is of.

    Attributes:
        variant_sha256: Of the variant's file.
        float_sha256: Of the original float model, as ``inspect`` gives it.
    """

    variant_sha256: str
    float_sha256: str
    device_class: str
    session: Session

    @classmethod
    def of(cls, report: LatencyReport) -> "Key":
        """Return what ``report`` is of."""
        return cls(
            variant_sha256=report.variant_sha256,
            float_sha256=report.float_sha256,
            device_class=report.device_class,
            session=report.session,
        )

    @property
    def file(self) -> str:
        """Name of the entry's file."""
        parts = [self.variant_sha256, self.float_sha256, self.device_class]
        text = "\n".join([*parts, self.session.model_dump_json()])
        return sha256(text.encode()).hexdigest() + ".json"


@dataclass(frozen=True, slots=True)
class Found:
    """What there is for a key.

    Attributes:
        note: Why an entry that is there was passed over; empty when none was.
    """

    report: LatencyReport | None
    note: str = ""


def default_folder() -> Path:
    """Return where measured latencies are kept."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "quarterdeck" / "latencies"


@dataclass(frozen=True, slots=True)
class Known:
    """Entries in ``folder``, which need not exist yet."""

    folder: Path
    most: int = MOST_ENTRIES

    def lookup(self, key: Key) -> Found:
        """Return what was measured for ``key``, newest; nothing is no error."""
        path = self.folder / key.file
        try:
            report = _read(path)
        except FileNotFoundError:
            return Found(None)
        except (OSError, RejectedError) as error:
            return Found(
                None, f"the measured latency in {path} is passed over: {error}"
            )
        if Key.of(report) != key:
            return Found(None, f"the measured latency in {path} is of another variant")
        return Found(report)

    def keep(self, report: LatencyReport) -> bool:
        """Store ``report``, unless a newer one of the same is there; return which.

        Raises:
            RejectedError: ``DISK_FULL`` or ``DISK_FAILED``.
        """
        key = Key.of(report)
        there = self.lookup(key).report
        if there is not None and there.measured > report.measured:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_durable(self.folder / key.file, report.encode())
            self._forget()
        except OSError as error:
            told = f"{self.folder}: {error.strerror}"
            raise RejectedError(disk_code(error), told) from error
        return True

    def _forget(self) -> None:
        entries = sorted(
            self.folder.glob("*.json"), key=lambda path: (path.stat().st_mtime, path)
        )
        for path in entries[: max(0, len(entries) - self.most)]:
            path.unlink(missing_ok=True)


def _read(path: Path) -> LatencyReport:
    with path.open("rb") as file:
        return LatencyReport.decode(
            file.read(MAX_ENTRY_BYTES + 1), limit=MAX_ENTRY_BYTES
        )
