"""Turn a folder of variants into a release: check everything, then sign at once.

The folder holds ``<class>/model.onnx``, ``golden.npz``, ``evaluation.json`` and
``provenance.json`` for each device class, as ``quarterdeck model optimize`` and
``model attest`` write them. Every variant passes the gate (``release/gate.py``) before
anything is signed; where a class key is elsewhere, it passes it there again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from tuf.api.metadata import Targets

from quarterdeck_controller.home import Home
from quarterdeck_controller.release.catalog import Catalog, Release
from quarterdeck_controller.release.folder import Draft, read_drafts
from quarterdeck_controller.release.gate import (
    Allowed,
    Finding,
    Inspector,
    shipped,
)
from quarterdeck_controller.release.held import read_held
from quarterdeck_controller.release.listings import (
    index_file,
    listed_in,
    permit,
    target_file,
)
from quarterdeck_controller.release.trial import Trial, run_once
from quarterdeck_controller.repository.drafts import following
from quarterdeck_controller.repository.parts import PartStore
from quarterdeck_controller.repository.repository import Committed, Repository
from quarterdeck_controller.repository.requests import Request
from quarterdeck_controller.repository.roles import class_role, role_class
from quarterdeck_controller.repository.seal import key_name, seal
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name, release_id
from quarterdeck_shared.index import (
    Index,
    PartName,
    Plain,
    cut,
    digest,
)
from quarterdeck_shared.listing import Listing

MAX_VERSION = 999_999_999
MAX_REASON = 500

Held = Mapping[str, Collection[str]]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A release that was asked for.

    Attributes:
        release: It, when it is in force.
        request: What waits for signatures, when it is not.
        findings: What the gate found of each variant; empty for a release that was
            there already.
    """

    id: str
    release: Release | None
    request: Request | None
    findings: tuple[Finding, ...] = ()


def create_release(
    home: Home,
    variants_dir: Path,
    name: str,
    version: int,
    clock: Clock,
    *,
    override: str | None = None,
    classes: Sequence[str] = (),
    sealed: bool = False,
    trial: Trial = run_once,
) -> Release:
    """Sign what ``variants_dir`` holds as version ``version`` of the model ``name``.

    Raises:
        RejectedError: As ``propose_release``; ``SIGNATURES_MISSING`` when class keys
            are elsewhere, with the request that is open now.
        TransientError: ``CONFLICT`` when another process is publishing.
    """
    proposal = propose_release(
        home,
        variants_dir,
        name,
        version,
        clock,
        override=override,
        classes=classes,
        sealed=sealed,
        trial=trial,
    )
    if proposal.release is None:
        assert proposal.request is not None
        raise RejectedError(
            Code.SIGNATURES_MISSING,
            f"{proposal.id} waits as the request {proposal.request.id} for signatures "
            f"of {', '.join(proposal.request.roles)}",
        )
    return proposal.release


def propose_release(
    home: Home,
    variants_dir: Path,
    name: str,
    version: int,
    clock: Clock,
    *,
    override: str | None = None,
    classes: Sequence[str] = (),
    sealed: bool = False,
    trial: Trial = run_once,
    allowed: Allowed = shipped,
    held: Held | None = None,
) -> Proposal:
    """Sign what ``variants_dir`` holds, or ask those who hold the class keys to.

    The same content again returns the release that exists. ``override`` says why
    variants that their evaluation refused are released all the same, and is signed
    with them. Only ``classes`` are released, or, when empty, all that are there. In the
    same change, devices are permitted to go back to what they may have to fall back
    on, and to nothing else (``release/downgrade.py``).

    ``sealed`` encrypts the models, so that only devices they are assigned to can read
    them. ``trial`` is how each variant is run once, ``allowed`` what models of a class
    may hold, ``held``, by class, the artifacts that its devices hold; None asks the
    database.

    Raises:
        RejectedError: ``CONFLICT`` when the version has other content or waits for
            signatures, ``GATE_FAILED`` or ``PROVENANCE_INVALID`` for what must not be
            signed, ``RELEASE_REVOKED`` for a name that was revoked; else as
            ``read_drafts``. Nothing is left behind.
        TransientError: ``CONFLICT`` when another process is publishing.
    """
    _check_names(name, version, override)
    settings = home.settings()
    drafts = read_drafts(
        variants_dir, name, classes=classes, known=settings.classes, override=override
    )
    repository, catalog = Repository(home, clock), Catalog(home)
    id_ = release_id(name, version)
    existing = _existing(catalog, id_)
    if existing is not None:
        _check_same(existing, drafts)
        return Proposal(id_, existing, None)
    counter = _next_counter(catalog, repository)
    listing = Listing(release=counter, created=clock.now())
    size = settings.chunk_bytes
    variants = [_variant(it, version, listing, size, override) for it in drafts]
    variants = [_sealed(it, size) for it in variants] if sealed else variants
    # Outside the lock: it takes seconds, and others may renew signatures meanwhile.
    inspector = Inspector(repository.chain().targets, allowed=allowed, trial=trial)
    findings = _inspected(inspector, variants)
    known = read_held(home) if held is None else held
    with (
        repository.exclusive(),
        _forgotten_on_failure(PartStore(home.parts), variants),
    ):
        _check_counter(id_, counter, _next_counter(catalog, repository))
        outcome = _propose(repository, id_, variants, known, clock)
    request = outcome if isinstance(outcome, Request) else None
    return Proposal(id_, None if request else catalog.release(id_), request, findings)


@dataclass(frozen=True, slots=True)
class _Variant:
    """One class's variant as it would be signed.

    Attributes:
        files: Its parts as they were made.
        published: Its parts as they travel; the same unless it is sealed.
        key: What opens a sealed one.
    """

    index: Index
    listing: Listing
    files: Mapping[PartName, bytes]
    published: Mapping[PartName, bytes]
    key: str = ""


def _variant(
    draft: Draft, version: int, listing: Listing, size: int, override: str | None
) -> _Variant:
    index = _index(draft, version, listing.release, size)
    beside = _beside(listing, draft, override)
    return _Variant(index, beside, draft.files, draft.files)


def _sealed(variant: _Variant, size: int) -> _Variant:
    done = seal(variant.files, size)
    index = variant.index.model_copy(update={"parts": done.parts})
    return replace(variant, index=index, published=done.files, key=done.key)


def _inspected(
    inspector: Inspector, variants: Sequence[_Variant]
) -> tuple[Finding, ...]:
    return tuple(map(partial(_inspect, inspector), variants))


def _inspect(inspector: Inspector, variant: _Variant) -> Finding:
    try:
        return inspector.variant(variant.index, variant.listing, variant.files)
    except RejectedError as error:
        name = variant.index.device_class
        raise RejectedError(error.code, f"{name}: {error.detail}") from error


def _propose(
    repository: Repository,
    id_: str,
    variants: Sequence[_Variant],
    held: Held,
    clock: Clock,
) -> Committed | Request:
    chain, now = repository.chain(), clock.now()
    changed: dict[str, Targets] = {}
    attached: dict[str, bytes] = {}
    for variant in variants:
        index, role = variant.index, class_role(variant.index.device_class)
        if role not in chain.delegated:
            raise RejectedError(
                Code.NOT_FOUND, f"class {index.device_class} has no signing role"
            )
        signed = following(chain.delegated[role], role, now)
        permit(signed, index.model, id_, held.get(index.device_class, ()))
        file = target_file(index, variant.listing)
        signed.targets[file.path] = file
        changed[role] = signed
        attached[index_file(file)] = index.encode()
        attached |= {f"parts/{digest(it)}": it for it in variant.published.values()}
        if variant.key:
            attached[f"seals/{key_name(index)}"] = variant.key.encode()
    return repository.propose(changed, why=f"release {id_}", attachments=attached)


def _check_counter(id_: str, ours: int, following: int) -> None:
    if ours != following:
        raise RejectedError(
            Code.CONFLICT, f"another release was made beside {id_}: try again"
        )


def _next_counter(catalog: Catalog, repository: Repository) -> int:
    """Return a release counter higher than all, those that wait for signatures too."""
    waiting = (
        listed.release
        for request in repository.requests()
        for role, signed in request.changed().items()
        if role_class(role) is not None and isinstance(signed, Targets)
        for listed in listed_in(signed)
    )
    counters = (*(release.counter for release in catalog.all()), *waiting)
    return max(counters, default=0) + 1


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


def _existing(catalog: Catalog, id_: str) -> Release | None:
    found = next((release for release in catalog.all() if release.id == id_), None)
    if found is not None and found.revoked:
        why = next(iter(found.revoked.values())).reason
        raise RejectedError(
            Code.RELEASE_REVOKED,
            f"{id_} was revoked: {why}; give the variants a new version",
        )
    return found


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
        made = _index(draft, kept.version, kept.release, size)
        if _content(made) != _content(kept):
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


def _content(index: Index) -> tuple[Index, dict[PartName, Plain]]:
    """Return all that an index says, and what its parts hold when they are opened."""
    held = {
        part.name: part.plain or Plain(length=part.length, sha256=part.sha256)
        for part in index.parts
    }
    return index.model_copy(update={"parts": ()}), held


def _index(draft: Draft, version: int, counter: int, chunk_bytes: int) -> Index:
    evaluation, files = draft.evaluation, draft.files
    try:
        return Index(
            model=evaluation.name,
            version=version,
            release=counter,
            device_class=draft.device_class,
            recipe=evaluation.recipe or "unknown",
            chunk_bytes=chunk_bytes,
            parts=tuple(cut(name, data, chunk_bytes) for name, data in files.items()),
            requires=evaluation.requires,
            limits=evaluation.limits,
            golden=evaluation.golden,
            labels=evaluation.labels,
            session=evaluation.session,
        )
    except ValidationError as error:
        size = sum(map(len, files.values()))
        raise RejectedError(
            Code.TOO_LARGE,
            f"{draft.device_class}: {size} bytes in chunks of {chunk_bytes} make no "
            f"index; larger chunks (chunk_bytes in settings.toml) do: {error}",
        ) from error


def _beside(listing: Listing, draft: Draft, override: str | None) -> Listing:
    refused = draft.evaluation.decision == "refused"
    return listing.model_copy(update={"override": override}) if refused else listing


@contextmanager
def _forgotten_on_failure(
    parts: PartStore, variants: Sequence[_Variant]
) -> Iterator[None]:
    """Forget the parts that are new when the body fails."""
    digests = {digest(data) for it in variants for data in it.published.values()}
    new = {sha256 for sha256 in digests if parts.get(sha256) is None}
    try:
        yield
    except BaseException:
        for sha256 in new:
            parts.forget(sha256)
        raise
