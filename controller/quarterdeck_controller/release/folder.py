"""Read a folder of variants, as the optimizer and those who vouch have written it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_controller.optimize.evaluation import (
    MAX_EVALUATION_BYTES,
    Evaluation,
)
from quarterdeck_controller.release.gate import PARTS
from quarterdeck_controller.release.provenance import MAX_PROVENANCE_BYTES
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import MAX_ARTIFACT_BYTES, PartName, digest

_LIMITS: Mapping[PartName, int] = {
    "model.onnx": MAX_ARTIFACT_BYTES,
    "golden.npz": MAX_ARTIFACT_BYTES,
    "evaluation.json": MAX_EVALUATION_BYTES,
    "provenance.json": MAX_PROVENANCE_BYTES,
}


@dataclass(frozen=True, slots=True)
class Draft:
    """One class's variant, checked and ready to be signed."""

    device_class: str
    evaluation: Evaluation
    files: Mapping[PartName, bytes]


def read_drafts(
    variants_dir: Path,
    name: str,
    *,
    classes: Sequence[str],
    known: Sequence[str],
    override: str | None,
) -> tuple[Draft, ...]:
    """Return the variants of the model ``name`` in a folder.

    Args:
        variants_dir: Holds ``<class>/`` with the parts of each variant.
        name: The model.
        classes: Which classes; empty is all that are there.
        known: The classes that have a signing role.
        override: Why variants that their evaluation refused are taken; None takes none.

    Raises:
        RejectedError: ``NOT_FOUND``, ``DATA_INVALID``, ``TOO_LARGE`` or ``MALFORMED``
            for what is missing or cannot be read, ``CONFLICT`` for what belongs to
            something else or was changed, ``BUDGET_MISSED`` for a refused variant,
            ``PROVENANCE_INVALID`` where nobody vouches.
    """
    folders = _folders(variants_dir, classes, known)
    return tuple(_read(folder, name, override) for folder in folders)


def _folders(
    variants_dir: Path, classes: Sequence[str], known: Sequence[str]
) -> tuple[Path, ...]:
    if not variants_dir.is_dir():
        raise RejectedError(Code.NOT_FOUND, f"{variants_dir} is not a folder")
    there = sorted(
        folder.name
        for folder in variants_dir.iterdir()
        if any((folder / part).is_file() for part in PARTS)
    )
    wanted = sorted(set(classes)) or there
    if not wanted:
        raise RejectedError(
            Code.NOT_FOUND,
            f"{variants_dir} holds no variants, which are <class>/{', '.join(PARTS)}",
        )
    for name in wanted:
        if name not in there:
            raise RejectedError(Code.NOT_FOUND, f"{variants_dir} holds no {name}")
        if name not in known:
            raise RejectedError(
                Code.NOT_FOUND,
                f"class {name} has no signing role in this fleet; "
                f"these have: {', '.join(known)}",
            )
    return tuple(variants_dir / name for name in wanted)


def _read(folder: Path, name: str, override: str | None) -> Draft:
    try:
        _check_vouched(folder)
        files = {part: _bytes(folder / part, _LIMITS[part]) for part in PARTS}
        evaluation = Evaluation.decode(
            files["evaluation.json"], limit=MAX_EVALUATION_BYTES
        )
        _check_evaluation(evaluation, folder.name, name, override)
        for part in ("model.onnx", "golden.npz"):
            _check_same_bytes(evaluation, part, files[part])
    except RejectedError as error:
        raise RejectedError(error.code, f"{folder.name}: {error.detail}") from error
    return Draft(folder.name, evaluation, files)


def _check_vouched(folder: Path) -> None:
    made = (folder / "evaluation.json").is_file()
    if made and not (folder / "provenance.json").is_file():
        raise RejectedError(
            Code.PROVENANCE_INVALID,
            "provenance.json is missing: nobody vouches for the variant; quarterdeck "
            f"model attest {folder} signs it",
        )


def _bytes(file: Path, limit: int) -> bytes:
    try:
        size = file.stat().st_size
        if size > limit:
            raise RejectedError(
                Code.TOO_LARGE, f"{file.name} has {size} bytes, {limit} are allowed"
            )
        if size == 0:
            raise RejectedError(Code.DATA_INVALID, f"{file.name} is empty")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise RejectedError(Code.NOT_FOUND, f"{file.name} is missing") from error
    except OSError as error:
        raise RejectedError(
            Code.DATA_INVALID, f"{file} cannot be read: {error.strerror}"
        ) from error


def _check_evaluation(
    evaluation: Evaluation, device_class: str, name: str, override: str | None
) -> None:
    if (evaluation.device_class, evaluation.name) != (device_class, name):
        raise RejectedError(
            Code.CONFLICT,
            f"evaluation.json is of {evaluation.name} for {evaluation.device_class}, "
            f"not of {name} for {device_class}",
        )
    if evaluation.decision == "refused" and override is None:
        raise RejectedError(
            Code.BUDGET_MISSED,
            f"the evaluation refused it: {evaluation.reason}. Release the others with "
            "--class, or this one too with --override and the reason why",
        )


def _check_same_bytes(evaluation: Evaluation, name: PartName, data: bytes) -> None:
    found, measured = digest(data), evaluation.files.get(name)
    if found != measured:
        raise RejectedError(
            Code.CONFLICT,
            f"{name} has the sha256 {found[:12]}, evaluation.json measured "
            f"{measured[:12] if measured else 'none'}: it was changed afterwards; "
            "optimize again",
        )
