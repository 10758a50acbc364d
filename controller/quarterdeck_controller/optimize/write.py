"""Write what an optimization gave: one folder per class, whole or not at all.

``DIR/<class>/`` holds ``model.onnx``, ``golden.npz`` and ``evaluation.json``; a refused
class only the latter, unless its files were asked for too.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from quarterdeck_controller.optimize.evaluation import MAX_EVALUATION_BYTES, Evaluation
from quarterdeck_controller.optimize.optimizer import Optimization
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError


def write(result: Optimization, out: Path, *, keep_refused: bool = False) -> Path:
    """Write one class into ``out`` and return its folder; what was there is replaced.

    ``keep_refused`` also writes the nearest miss of a refused class, for a release
    that overrides the refusal.

    Raises:
        RejectedError: ``DISK_FAILED`` or ``DISK_FULL`` when it cannot be written;
            then what was there before is still there.
    """
    files = {"evaluation.json": result.evaluation.model_dump_json(indent=2).encode()}
    if result.model is not None and (result.accepted or keep_refused):
        files |= {"model.onnx": result.model, "golden.npz": result.golden}
    target = out / result.profile.name
    try:
        _replace(target, files)
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


def check_writable(out: Path) -> None:
    """Fail now where ``write`` would fail after minutes of work.

    Raises:
        RejectedError: ``DISK_FULL`` or ``DISK_FAILED``.
    """
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".probe-", dir=there)).rmdir()
    except OSError as error:
        raise _unwritable(out, error) from error


def read_evaluation(folder: Path) -> Evaluation:
    """Return the evaluation record of a class's folder.

    Raises:
        RejectedError: ``NOT_FOUND`` when there is none, ``MALFORMED`` when it is
            damaged.
    """
    path = folder / "evaluation.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectedError(
            Code.NOT_FOUND, f"{path} could not be read: {error.strerror}"
        ) from error
    return Evaluation.decode(data, limit=MAX_EVALUATION_BYTES)


def _unwritable(target: Path, error: OSError) -> RejectedError:
    return RejectedError(
        disk_code(error),
        f"{target} could not be written: {error.strerror}",
    )


def _replace(target: Path, files: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, data in files.items():
            _write_synced(fresh / name, data)
        fresh.chmod(0o755)
        _sync(fresh)
        _swap(fresh, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, target: Path) -> None:
    """Put ``fresh`` in the place of ``target``; a folder cannot be renamed over one."""
    if not target.exists():
        fresh.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(old / "was")
    try:
        fresh.rename(target)
    except OSError:
        (old / "was").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
