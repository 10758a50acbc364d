"""Why a device runs what it runs: the chain from its report to the root of trust."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Signature
from tuf.api.exceptions import RepositoryError

from quarterdeck_controller.release.catalog import Catalog, Variant
from quarterdeck_controller.release.links import (
    SHORT,
    Link,
    at,
    role_link,
    variant_links,
)
from quarterdeck_controller.release.revocation import Revoked
from quarterdeck_controller.repository.chain import Chain
from quarterdeck_controller.repository.keyfile import key_name
from quarterdeck_controller.repository.roles import DIRECTOR
from quarterdeck_controller.store.records import (
    Assigned,
    Decision,
    Device,
    Report,
    Rollout,
)
from quarterdeck_controller.store.store import Records
from quarterdeck_shared import dsse
from quarterdeck_shared.assignment import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    Assignment,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.reported import Slot


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows of one device.

    Attributes:
        verdict: The newest decision on the rollout that its assignment came from.
    """

    device: Device
    report: Report | None
    assigned: Assigned | None
    rollout: Rollout | None
    verdict: Decision | None


@dataclass(frozen=True, slots=True)
class Explained:
    """A device and the links that lead from what it runs to the root."""

    device: Device
    links: tuple[Link, ...]

    @property
    def verified(self) -> bool:
        """Whether every link holds."""
        return all(link.verified for link in self.links)


def read_known(records: Records, device: str) -> Known:
    """Return what the store knows of ``device``.

    Raises:
        RejectedError: ``NOT_FOUND`` when there is no such device.
    """
    found = records.devices.get(device)
    if found is None:
        raise RejectedError(Code.NOT_FOUND, f"there is no device {device}")
    assigned = records.assignments.get(device)
    number = assigned.rollout if assigned else None
    rollout = None if number is None else records.rollouts.get(number)
    decisions = () if rollout is None else records.decisions.of(rollout.id)
    return Known(
        found,
        records.reports.get(device),
        assigned,
        rollout,
        decisions[-1] if decisions else None,
    )


def explain(known: Known, catalog: Catalog, chain: Chain, now: datetime) -> Explained:
    """Return the links from what the device reports to the root, checked now."""
    links = [_report(known, catalog)]
    if known.assigned is not None:
        links.append(_assignment(known.assigned, chain, now))
        links.append(role_link(chain, DIRECTOR, now))
    if known.rollout is not None:
        links.append(_rollout(known.rollout, known.verdict))
    artifact = _artifact(known)
    if artifact is not None:
        links += _release(artifact, catalog, chain, now)
    return Explained(known.device, tuple(links))


def _artifact(known: Known) -> str | None:
    """Return what the device runs or, before it runs anything, what it shall run."""
    active = known.report.reported.active if known.report else None
    if active is not None:
        return active.digest
    assigned = known.assigned
    return assigned.runs.target.sha256 if assigned and not assigned.withdrawn else None


def _report(known: Known, catalog: Catalog) -> Link:
    report = known.report
    if report is None:
        return Link("reports", ("nothing yet",), "", {"active": None})
    active, previous = report.reported.active, report.reported.previous
    told = [
        f"{_slot('runs', active)}, heard {at(report.received_at)}",
        _slot("can fall back on", previous),
    ]
    return Link(
        "reports",
        tuple(told),
        _report_wrong(known, active, catalog.revoked()),
        {
            "active": active and active.digest,
            "previous": previous and previous.digest,
            "heard": report.received_at.isoformat(),
        },
    )


def _slot(verb: str, slot: Slot | None) -> str:
    if slot is None:
        return f"{verb} nothing"
    return f"{verb} {slot.release} ({slot.digest[:SHORT]})"


def _report_wrong(
    known: Known, active: Slot | None, revoked: Mapping[str, Revoked]
) -> str:
    assigned = known.assigned
    if active is None:
        return ""
    found = revoked.get(active.digest)
    if found is not None:
        return f"{active.release} was revoked: {found.reason}"
    if assigned is None or assigned.withdrawn:
        return "no assignment asks it to run that"
    if assigned.runs.target.sha256 != active.digest:
        return f"it is assigned {assigned.runs.release}"
    return ""


def _assignment(assigned: Assigned, chain: Chain, now: datetime) -> Link:
    keys, wrong = _director_signed(assigned, chain)
    if not wrong and assigned.expires <= now:
        wrong = f"expired on {at(assigned.expires)}"
    state = "withdrawn" if assigned.withdrawn else "in force"
    what = f"{assigned.runs.release}, sequence {assigned.sequence}"
    told = (
        f"{what}, {state}, expires {at(assigned.expires)}",
        f"signed by {', '.join(keys) or 'nobody'}",
        f"why: {assigned.reason or 'no reason was given'}",
    )
    return Link(
        "assignment",
        told,
        wrong,
        {
            "release": assigned.runs.release,
            "artifact": assigned.runs.target.sha256,
            "sequence": assigned.sequence,
            "issued": assigned.issued.isoformat(),
            "expires": assigned.expires.isoformat(),
            "withdrawn": assigned.withdrawn,
            "reason": assigned.reason,
        },
    )


def _director_signed(assigned: Assigned, chain: Chain) -> tuple[Sequence[str], str]:
    """Return the keys that signed an assignment, and what is wrong with it."""
    names: list[str] = []
    try:
        opened = dsse.opened(assigned.envelope, PAYLOAD_TYPE, limit=MAX_ENVELOPE_BYTES)
        found = {k: Signature(k, sig.hex()) for k, sig in opened.signatures.items()}
        known = chain.quorum(DIRECTOR).keys
        names = [f"{key_name(known[k])} {k[:SHORT]}" for k in found if k in known]
        chain.targets.verify_delegate(DIRECTOR, opened.signed, found)
        said = Assignment.decode(opened.payload)
    except RepositoryError as error:
        return names, str(error)
    except RejectedError as error:
        return (), error.detail
    same = (said.device, said.sequence, said.target) == (
        assigned.device,
        assigned.sequence,
        assigned.runs.target,
    )
    return names, "" if same else "it says something else than the store"


def _rollout(rollout: Rollout, verdict: Decision | None) -> Link:
    told = [f"{rollout.id} of {rollout.release} to {rollout.selector}: {rollout.state}"]
    if verdict is not None:
        told.append(f"{at(verdict.at)} {verdict.what}: {verdict.reason}")
    return Link(
        "rollout",
        tuple(told),
        "",
        {
            "rollout": rollout.id,
            "state": str(rollout.state),
            "decision": verdict and verdict.what,
            "reason": verdict and verdict.reason,
            "numbers": dict(verdict.numbers) if verdict else {},
        },
    )


def _release(
    artifact: str, catalog: Catalog, chain: Chain, now: datetime
) -> Sequence[Link]:
    variant: Variant | None = catalog.variant(artifact)
    if variant is not None:
        return variant_links(catalog, chain, variant, now)
    revoked = catalog.revoked().get(artifact)
    if revoked is None:
        told = f"{artifact[:SHORT]} is no artifact of this fleet"
        return [Link("release", (told,), "no class role lists it, nor ever did")]
    wrong = f"revoked on {at(revoked.at)}: {revoked.reason}"
    facts = {"release": revoked.release_id, "revoked": revoked.reason}
    told = f"{revoked.release_id}, release {revoked.release}"
    return [Link("release", (told,), wrong, facts)]
