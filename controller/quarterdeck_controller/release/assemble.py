"""Turn a folder of variants into a release: check everything, then publish at once.

The folder holds ``<class>/model.onnx``, ``golden.npz`` and ``evaluation.json`` for each
device class, as ``quarterdeck model optimize`` writes them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_controller.home import Home
from quarterdeck_controller.optimize.evaluation import (
    MAX_EVALUATION_BYTES,
    Evaluation,
)
from quarterdeck_controller.release.catalog import Catalog, Release
from quarterdeck_controller.release.parts import PartStore
from quarterdeck_controller.release.repository import Repository
from quarterdeck_controller.release.screening import check_golden, check_model
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name, release_id
from quarterdeck_shared.index import MAX_ARTIFACT_BYTES, Index, PartName, cut
from quarterdeck_shared.listing import Listing

PARTS: tuple[PartName, ...] = ("model.onnx", "golden.npz", "evaluation.json")
MAX_VERSION = 999_999_999
MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Draft:
    """One class's variant, checked and ready to be signed."""

    device_class: str
    evaluation: Evaluation
    files: Mapping[PartName, bytes]


def create_release(
    home: Home,
    variants_dir: Path,
    name: str,
    version: int,
    clock: Clock,
    *,
    override: str | None = None,
    classes: Sequence[str] = (),
) -> Release:
    """Sign what ``variants_dir`` holds as version ``version`` of the model ``name``.

    The same content again returns the release that exists. ``override`` says why
    variants that their evaluation refused are released all the same, and is signed
    with them. Only ``classes`` are released, or, when empty, all that are there.

    Raises:
        RejectedError: ``CONFLICT`` when the version exists with other content,
            ``BUDGET_MISSED`` for a refused variant, ``MODEL_INVALID``,
            ``DATA_INVALID`` or ``NOT_FOUND`` for what is wrong or missing. Nothing
            is left behind.
        TransientError: ``CONFLICT`` when another process is publishing.
    """
    _check_names(name, version, override)
    known = home.settings().classes
    folders = _folders(variants_dir, classes, known)
    drafts = [_read(folder, name, override) for folder in folders]
    repository, catalog = Repository(home, clock), Catalog(home)
    with repository.exclusive():
        existing = _existing(catalog, release_id(name, version))
        counter = max((r.counter for r in catalog.releases()), default=0) + 1
        chunk_bytes = home.settings().chunk_bytes
        if existing is not None:
            _check_same(existing, drafts)
            return existing
        indexes = [_index(draft, version, counter, chunk_bytes) for draft in drafts]
        listing = Listing(release=counter, created=clock.now())
        beside = [_beside(listing, draft, override).model_dump(mode="json")
                  for draft in drafts]  # fmt: skip
        with _stored(PartStore(home.parts), drafts):
            repository.publish(tuple(zip(indexes, beside, strict=True)))
    return catalog.release(release_id(name, version))


def _check_names(name: str, version: int, override: str | None) -> None:
    if not is_name(name):
        raise RejectedError(
            Code.NAME_INVALID,
            f"{name!r} cannot name a model",
        )
    if not 1 <= version <= MAX_VERSION:
        raise RejectedError(
            Code.NOT_ALLOWED, f"version {version} is not from 1 to {MAX_VERSION}"
        )
    if override is not None and not 1 <= len(override.strip()) <= MAX_REASON:
        raise RejectedError(
            Code.NOT_ALLOWED, f"an override needs a reason of 1 to {MAX_REASON} letters"
        )


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
        evaluation_json = _bytes(folder / "evaluation.json", MAX_EVALUATION_BYTES)
        evaluation = Evaluation.decode(evaluation_json, limit=MAX_EVALUATION_BYTES)
        _check_evaluation(evaluation, folder.name, name, override)
        model_onnx = _bytes(folder / "model.onnx", MAX_ARTIFACT_BYTES)
        golden_npz = _bytes(folder / "golden.npz", MAX_ARTIFACT_BYTES)
        check_golden(golden_npz, check_model(model_onnx), evaluation.golden)
        _check_same_bytes(evaluation, "model.onnx", model_onnx)
        _check_same_bytes(evaluation, "golden.npz", golden_npz)
    except RejectedError as error:
        raise RejectedError(error.code, f"{folder.name}: {error.detail}") from error
    files: Mapping[PartName, bytes] = {
        "model.onnx": model_onnx,
        "golden.npz": golden_npz,
        "evaluation.json": evaluation_json,
    }
    return Draft(folder.name, evaluation, files)


def _bytes(file: Path, limit: int) -> bytes:
    try:
        size = file.stat().st_size
        if size > limit:
            raise RejectedError(
                Code.TOO_LARGE, f"{file.name} has {size} bytes, {limit} are allowed"
            )
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
    found, measured = hashlib.sha256(data).hexdigest(), evaluation.files.get(name)
    if found != measured:
        raise RejectedError(
            Code.CONFLICT,
            f"{name} has the sha256 {found[:12]}, evaluation.json measured "
            f"{measured[:12] if measured else 'none'}: it was changed afterwards; "
            "optimize again",
        )


def _existing(catalog: Catalog, release: str) -> Release | None:
    return next((r for r in catalog.releases() if r.id == release), None)


def _check_same(existing: Release, drafts: Sequence[Draft]) -> None:
    for draft in drafts:
        variant = existing.variants.get(draft.device_class)
        if variant is None:
            raise RejectedError(
                Code.CONFLICT,
                f"{existing.id} was released without {draft.device_class}; "
                "a release never changes: give the variants a new version",
            )
        kept, size = variant.index, variant.index.chunk_bytes
        if _index(draft, kept.version, kept.release, size) != kept:
            raise RejectedError(
                Code.CONFLICT,
                f"{existing.id} was released with other content for "
                f"{draft.device_class}; a release never changes: take a new version",
            )
    missing = set(existing.variants) - {draft.device_class for draft in drafts}
    if missing:
        raise RejectedError(
            Code.CONFLICT,
            f"{existing.id} was released with {', '.join(sorted(missing))} too; "
            "a release never changes: take a new version",
        )


def _index(draft: Draft, version: int, counter: int, chunk_bytes: int) -> Index:
    evaluation = draft.evaluation
    return Index(
        model=evaluation.name,
        version=version,
        release=counter,
        device_class=draft.device_class,
        recipe=evaluation.recipe or "unknown",
        chunk_bytes=chunk_bytes,
        parts=tuple(cut(name, data, chunk_bytes) for name, data in draft.files.items()),
        requires=evaluation.requires,
        limits=evaluation.limits,
        golden=evaluation.golden,
        labels=evaluation.labels,
        session=evaluation.session,
    )


def _beside(listing: Listing, draft: Draft, override: str | None) -> Listing:
    refused = draft.evaluation.decision == "refused"
    return listing.model_copy(update={"override": override}) if refused else listing


@contextmanager
def _stored(parts: PartStore, drafts: Sequence[Draft]) -> Iterator[None]:
    """Keep the drafts' files; forget again those that are new when the body fails."""
    added = []
    try:
        for draft in drafts:
            for data in draft.files.values():
                sha256, new = parts.put(data)
                added += [sha256] if new else []
        yield
    except BaseException:
        for sha256 in added:
            parts.forget(sha256)
        raise
