"""The links of the chain from a variant to the root, each checked against its bytes.

Nothing is taken from what was found out before: files are read and hashed, signatures
verified, at the moment of asking. What does not hold is told beside what it should be.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from tuf.api.metadata import Signed

from quarterdeck_controller.optimize.evaluation import (
    MAX_EVALUATION_BYTES,
    Evaluation,
)
from quarterdeck_controller.optimize.report.wording import number
from quarterdeck_controller.release import provenance
from quarterdeck_controller.release.catalog import Catalog, Variant
from quarterdeck_controller.repository.chain import Chain
from quarterdeck_controller.repository.keyfile import key_name
from quarterdeck_controller.repository.roles import (
    PROVENANCE,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    class_role,
)
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import release_id
from quarterdeck_shared.index import digest
from quarterdeck_shared.sealing import is_sealed

SHORT = 12


@dataclass(frozen=True, slots=True)
class Link:
    """One link, and whether it holds now.

    Attributes:
        name: What it is.
        told: Sentences about it, for people.
        wrong: What does not hold; empty when everything was verified.
        facts: The same for programs.
    """

    name: str
    told: tuple[str, ...]
    wrong: str = ""
    facts: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def verified(self) -> bool:
        """Whether it holds."""
        return not self.wrong


def variant_links(
    catalog: Catalog, chain: Chain, variant: Variant, now: datetime
) -> tuple[Link, ...]:
    """Return the links from a variant that is in force to the root."""
    role = class_role(variant.index.device_class)
    return (
        _release(variant),
        _artifact(catalog, variant),
        _provenance(catalog, chain, variant),
        role_link(chain, role, now),
        role_link(chain, TARGETS, now),
        role_link(chain, SNAPSHOT, now),
        role_link(chain, TIMESTAMP, now),
        role_link(chain, ROOT, now),
    )


def role_link(chain: Chain, role: str, now: datetime) -> Link:
    """Return who signed a role's metadata, and until when that counts."""
    signed, quorum = chain.signed()[role], chain.quorum(role)
    metadata = chain.files[role]
    by = quorum.signed_by(metadata.signed_bytes, metadata.signatures)
    names = [f"{key_name(quorum.keys[key])} {key[:SHORT]}" for key in by]
    need = f"{quorum.threshold} of {len(quorum.keys)} needed"
    told = (
        f"version {signed.version}, expires {at(signed.expires)}",
        f"signed by {', '.join(names)}: {need}",
    )
    return Link(
        role,
        told,
        _role_wrong(signed, len(by), quorum.threshold, now),
        {
            "version": signed.version,
            "expires": signed.expires.isoformat(),
            "threshold": quorum.threshold,
            "keys": list(quorum.keys),
            "signed_by": list(by),
        },
    )


def _role_wrong(signed: Signed, by: int, threshold: int, now: datetime) -> str:
    if by < threshold:
        return f"{by} signatures, {threshold} are needed"
    if signed.is_expired(now):
        return f"expired on {at(signed.expires)}"
    return ""


def _release(variant: Variant) -> Link:
    listing, index = variant.listing, variant.index
    name, made = release_id(index.model, index.version), at(listing.created)
    told = [f"{name}, release {listing.release}, made {made}"]
    if listing.override:
        told.append(f"refused, and released all the same: {listing.override}")
    if listing.downgrade:
        told.append(f"devices may go back to it: {listing.downgrade}")
    agrees = listing.release == index.release
    return Link(
        "release",
        tuple(told),
        "" if agrees else f"the index says release {index.release}",
        {
            "release": name,
            "counter": listing.release,
            "created": listing.created.isoformat(),
            "override": listing.override or None,
            "downgrade": listing.downgrade or None,
        },
    )


def _artifact(catalog: Catalog, variant: Variant) -> Link:
    index = variant.index
    wrong = "; ".join(_damaged(catalog, variant))
    parts = ", ".join(f"{part.name} {part.sha256[:SHORT]}" for part in index.parts)
    sealed = ", sealed" if is_sealed(index) else ""
    what = f"{variant.artifact[:SHORT]}: {index.recipe}, {index.length:,} bytes{sealed}"
    return Link(
        "artifact",
        (what, parts),
        wrong,
        {
            "artifact": variant.artifact,
            "path": variant.target.path,
            "recipe": index.recipe,
            "sealed": is_sealed(index),
            "parts": {part.name: part.sha256 for part in index.parts},
        },
    )


def _damaged(catalog: Catalog, variant: Variant) -> Iterator[str]:
    if digest(variant.index.encode()) != variant.artifact:
        yield "the index is not what is listed"
    for part in variant.index.parts:
        data = catalog.read_part(variant, part.name)
        if data is None:
            yield f"{part.name} is missing"
        elif digest(data) != part.sha256:
            yield f"{part.name} is {digest(data)[:SHORT]}, not {part.sha256[:SHORT]}"


def _provenance(catalog: Catalog, chain: Chain, variant: Variant) -> Link:
    data = catalog.read_part(variant, "provenance.json")
    if data is None:
        return Link(PROVENANCE, ("none",), "nobody vouches for how it was made")
    try:
        statement = provenance.unverified(data)
        keys = provenance.signed_by(data)
    except RejectedError as error:
        return Link(PROVENANCE, ("unreadable",), error.detail)
    wrong = _provenance_wrong(catalog, chain, variant, data)
    predicate = statement.predicate
    figures = predicate.build_definition.internal_parameters
    asked, run = predicate.build_definition.external_parameters, predicate.run_details
    names = (provenance.FLOAT_MODEL, provenance.CALIBRATION, provenance.EVALUATION)
    went_in = {name: statement.dependency(name) or "" for name in names}
    finished, by = at(run.metadata.finished_on), ", ".join(_known(chain, keys))
    origin = ", ".join(f"{name} {sha[:SHORT]}" for name, sha in went_in.items())
    unit = figures.unit
    scores = (
        f"{_figure(figures.score, unit)}, float {_figure(figures.float_score, unit)}"
    )
    return Link(
        PROVENANCE,
        (
            f"made by {run.builder.id}, {finished}, signed by {by}",
            f"from {origin}",
            f"{asked.metric} {scores}: {figures.decision}",
        ),
        wrong,
        {
            "builder": run.builder.id,
            "invocation": run.metadata.invocation_id,
            "finished": run.metadata.finished_on.isoformat(),
            "signed_by": list(keys),
            "from": went_in,
            "asked": asked.model_dump(mode="json"),
            "figures": figures.model_dump(mode="json"),
        },
    )


def _provenance_wrong(
    catalog: Catalog, chain: Chain, variant: Variant, data: bytes
) -> str:
    try:
        statement = provenance.verify(data, chain.targets)
        record = catalog.read_part(variant, "evaluation.json") or b""
        evaluation = Evaluation.decode(record, limit=MAX_EVALUATION_BYTES)
        provenance.check_agrees(statement, evaluation)
    except RejectedError as error:
        return error.detail
    for subject in statement.subject:
        part = variant.index.part(subject.name)
        listed = part.plain.sha256 if part.plain else part.sha256
        if listed != subject.digest.sha256:
            return f"it vouches for another {subject.name}"
    return ""


def _known(chain: Chain, keys: Sequence[str]) -> Iterator[str]:
    known = chain.quorum(PROVENANCE).keys
    for key in keys:
        name = key_name(known[key]) if key in known else "an unknown key"
        yield f"{name} {key[:SHORT]}"


def at(moment: datetime) -> str:
    """Return a moment as the chain tells it: UTC, to the minute."""
    return f"{moment:%Y-%m-%d %H:%M}"


def _figure(value: float | None, unit: str) -> str:
    return "none" if value is None else f"{number(value, unit)} {unit}"
