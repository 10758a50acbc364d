"""Write what an optimization gave: one folder per class, whole or not at all.

``DIR/<class>/`` holds ``model.onnx``, ``golden.npz``, ``evaluation.json`` and
``search.json``, and ``provenance.json`` where somebody vouches for it; a refused class
only what was measured and searched, unless its files were asked for too.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.optimizer import Optimization
from quarterdeck_shared.durable import disk_code, sync_folder, write_durable
from quarterdeck_shared.errors import RejectedError

Attest = Callable[[Evaluation, bytes], bytes]
"""Returns the signed provenance of an evaluation, given with its own bytes."""


def write(
    result: Optimization,
    out: Path,
    *,
    keep_refused: bool = False,
    attest: Attest | None = None,
) -> Path:
    """Write one class into ``out`` and return its folder; what was there is replaced.

    ``keep_refused`` also writes the nearest miss of a refused class, for a release
    that overrides the refusal. ``attest`` vouches for what is written.

    Raises:
        RejectedError: ``DISK_FAILED`` or ``DISK_FULL`` when it cannot be written;
            then what was there before is still there.
    """
    files = {
        "evaluation.json": result.evaluation.model_dump_json(indent=2).encode(),
        "search.json": result.story.model_dump_json(indent=2).encode(),
    }
    if result.model is not None and (result.accepted or keep_refused):
        files |= {"model.onnx": result.model, "golden.npz": result.golden}
        if attest is not None:
            signed = attest(result.evaluation, files["evaluation.json"])
            files["provenance.json"] = signed
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
            write_durable(fresh / name, data)
        fresh.chmod(0o755)
        _swap(fresh, target)
        sync_folder(target.parent)
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
