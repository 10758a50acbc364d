"""Vouch for variants on disk: write ``provenance.json`` beside each.

What is vouched for is what the record of the evaluation says; the files must be those
that it measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Signer

from quarterdeck_controller.optimize.evaluation import (
    MAX_EVALUATION_BYTES,
    Evaluation,
)
from quarterdeck_controller.release import provenance
from quarterdeck_controller.release.statement import BUILDER, Statement
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code, write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import digest

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True, slots=True)
class Vouched:
    """A variant on disk and what there is to vouch for.

    Attributes:
        folder: Of the one class.
        standing: Key ids in the ``provenance.json`` that is there already; empty for
            none, or for one that speaks of other files.
    """

    folder: Path
    evaluation: Evaluation
    statement: Statement
    standing: tuple[str, ...]


def attester(
    signers: Sequence[Signer], *, builder: str = BUILDER
) -> Callable[[Evaluation, bytes], bytes]:
    """Return what makes ``provenance.json`` from an evaluation and its bytes."""

    def make(evaluation: Evaluation, evaluation_json: bytes) -> bytes:
        statement = provenance.state(evaluation, evaluation_json, builder=builder)
        return provenance.seal(statement, signers)

    return make


def find_variants(path: Path) -> tuple[Path, ...]:
    """Return the folders of variants: ``path`` itself, or those within it.

    A class that was refused and has no model is passed over.

    Raises:
        RejectedError: ``NOT_FOUND`` when there is none.
    """
    inner = sorted(path.iterdir()) if path.is_dir() else []
    found = tuple(
        folder
        for folder in (path, *inner)
        if (folder / "evaluation.json").is_file() and (folder / "model.onnx").is_file()
    )
    if not found:
        raise RejectedError(
            Code.NOT_FOUND,
            f"{path} holds no variants, which are <class>/model.onnx, golden.npz and "
            "evaluation.json",
        )
    return found


def examine(folder: Path, *, builder: str = BUILDER) -> Vouched:
    """Return what there is to vouch for in ``folder``.

    Raises:
        RejectedError: ``PROVENANCE_INVALID`` when the files are not those that the
            evaluation measured; ``NOT_FOUND``, ``MALFORMED`` or ``DATA_INVALID`` when
            they cannot be read.
    """
    data = _bytes(folder / "evaluation.json")
    evaluation = Evaluation.decode(data, limit=MAX_EVALUATION_BYTES)
    if evaluation.device_class != folder.name:
        raise _invalid(folder, f"its evaluation is of {evaluation.device_class}")
    statement = provenance.state(evaluation, data, builder=builder)
    for name in ("model.onnx", "golden.npz"):
        found, measured = digest(_bytes(folder / name)), statement.digest(name)
        if found != measured:
            raise _invalid(
                folder,
                f"{name} has the sha256 {found[:12]}, {str(measured)[:12]} was "
                "measured: it was changed afterwards; optimize again",
            )
    return Vouched(folder, evaluation, statement, _standing(folder, statement))


def attest(vouched: Vouched, signers: Sequence[Signer]) -> Path:
    """Sign and write ``provenance.json``; return where it is.

    Raises:
        RejectedError: ``DISK_FULL`` or ``DISK_FAILED``; what was there still is.
    """
    file = vouched.folder / PROVENANCE_FILE
    try:
        write_durable(file, provenance.seal(vouched.statement, signers))
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{file} could not be written: {error.strerror}"
        ) from error
    return file


def _standing(folder: Path, statement: Statement) -> tuple[str, ...]:
    file = folder / PROVENANCE_FILE
    try:
        envelope = _bytes(file)
        same = provenance.unverified(envelope) == statement
        return provenance.signed_by(envelope) if same else ()
    except RejectedError:
        return ()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise RejectedError(Code.NOT_FOUND, f"{file} is missing") from error
    except OSError as error:
        raise RejectedError(
            Code.DATA_INVALID, f"{file} cannot be read: {error.strerror}"
        ) from error


def _invalid(folder: Path, why: str) -> RejectedError:
    return RejectedError(Code.PROVENANCE_INVALID, f"{folder}: {why}")
