"""Results of steps, kept by what went in: a run goes on where another was cut off.

An entry is a folder named by the digest of the step, its request, the contents of every
file it reads, and the code and libraries that carry it out. It appears by one rename,
whole or not at all, and never changes. A folder inside an entry is known by the entry;
a file by its contents, so that two recipes that give the same file are measured once.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

from quarterdeck_controller.optimize.steps import Record

ANSWER = "answer.json"
LIBRARIES = ("numpy", "onnx", "onnxruntime")
MOST_BYTES = 8 << 30
YOUNG_S = 3600
"""An entry used within the last hour may be in use by another run: it is not pruned."""
BLOCK = 1 << 20


def default_folder() -> Path:
    """Return where results are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quarterdeck" / "optimize"


@dataclass(slots=True)
class Cache:
    """Entries under ``folder``. Safe to use from several threads and processes."""

    folder: Path
    _digests: dict[Path, str] = field(default_factory=dict)

    def key(self, step: str, request: Record, *, salt: str = "") -> str:
        """Return the name of the entry for ``request``; ``out`` does not count."""
        asked = request.model_dump(mode="json", exclude={"out"})
        files = {name: value for name, value in request if isinstance(value, Path)}
        asked |= {name: self._digest(files[name]) for name in files.keys() - {"out"}}
        text = json.dumps([step, asked, _carried_out_by(), salt], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def find(self, key: str) -> Path | None:
        """Return the entry's folder, when there is one."""
        entry = self.folder / key
        if not (entry / ANSWER).is_file():
            return None
        os.utime(entry)
        return entry

    def know(self, path: Path, digest: str) -> None:
        """Take in the digest of a model whose weights may lie in other files."""
        self._digests[path] = digest

    def begin(self) -> Path:
        """Return a new folder to make an entry in."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))

    def commit(self, fresh: Path, key: str, answer: Record) -> Path:
        """Give the entry made in ``fresh`` its name and return its folder."""
        (fresh / ANSWER).write_text(answer.model_dump_json(), "utf-8")
        entry = self.folder / key
        try:
            fresh.rename(entry)
        except OSError:  # another run was quicker; both made the same
            shutil.rmtree(fresh, ignore_errors=True)
            if not (entry / ANSWER).is_file():
                raise
        return entry

    def abandon(self, fresh: Path) -> None:
        """Forget what was begun."""
        shutil.rmtree(fresh, ignore_errors=True)

    def prune(self, now_s: float, most_bytes: int = MOST_BYTES) -> int:
        """Delete the entries used longest ago until ``most_bytes`` are left.

        Args:
            now_s: Seconds since the epoch.
            most_bytes: What may stay.

        Returns:
            How many entries were deleted.
        """
        entries = sorted(self._entries())
        total, gone = sum(size for _, size, _ in entries), 0
        for used, size, folder in entries:
            stale = folder.name.startswith(".new-")
            if now_s - used < YOUNG_S or (total <= most_bytes and not stale):
                continue
            shutil.rmtree(folder, ignore_errors=True)
            total, gone = total - size, gone + 1
        return gone

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            try:
                sizes = [f.stat().st_size for f in entry.rglob("*") if f.is_file()]
                yield entry.stat().st_mtime, sum(sizes), entry
            except OSError:
                continue  # another run deleted it

    def _digest(self, path: Path) -> str:
        if path.is_dir() and path.is_relative_to(self.folder):
            return str(path.relative_to(self.folder))
        if path not in self._digests:
            self._digests[path] = digest_of(path)
        return self._digests[path]


def digest_of(path: Path) -> str:
    """Return the sha256 of a file with the data file beside it, or of a folder."""
    state = hashlib.sha256()
    beside = path.with_suffix(".data")
    files = sorted(path.rglob("*")) if path.is_dir() else [path, beside]
    for file in files:
        if not file.is_file():
            continue
        state.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                state.update(block)
    return state.hexdigest()


@cache
def _carried_out_by() -> list[str]:
    code = hashlib.sha256()
    room = Path(__file__).parent.parent
    for file in sorted(room.rglob("*.py")):
        if file.parent.name not in ("report", "search"):
            code.update(file.name.encode() + file.read_bytes())
    return [code.hexdigest(), *(f"{name} {version(name)}" for name in LIBRARIES)]
