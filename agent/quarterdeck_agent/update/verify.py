"""What the device decides about signed bytes: no file, no network, no clock.

Rules:
1. Bytes go in; something trusted comes out, or a refusal with its code. What nobody
   has verified (``bytes``, ``Opened``) never has the type of what somebody has
   (``Verified``, ``Listed``, ``Index``).
2. A signature is verified over the raw bytes before any of them is parsed, and every
   length is bounded before that.
3. The functions carry the numbers of PROTOCOL.md section 6 and are called in its
   order by ``trust.py``, which fetches, remembers and knows what time it is.
4. Signed metadata itself is python-tuf's to verify (6.3); a ``Signatory`` and a
   ``TargetFile`` come out of verified metadata only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Signature
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import TargetFile, Targets

from quarterdeck_agent.update.floor import (
    MAX_KEYS,
    MAX_MODELS,
    MAX_ROLES,
    MAX_VERSION,
    Floor,
)
from quarterdeck_shared import dsse, signed_time
from quarterdeck_shared.assignment import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    Assignment,
    Target,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import release_id
from quarterdeck_shared.index import MAX_INDEX_BYTES, Index, digest, target_path
from quarterdeck_shared.listing import Listing
from quarterdeck_shared.signed_time import MAX_TIME_BYTES, SignedTime


@dataclass(frozen=True, slots=True)
class Seen:
    """The versions that are in force, and when they were signed.

    Attributes:
        online_keys: Digest of the keys that sign timestamp and snapshot.
        issued: When the timestamp was signed; None when it does not say.
        expires: When each top-level role expires, by its name.
    """

    root: int
    online_keys: str
    versions: Mapping[str, int]
    issued: datetime | None
    expires: Mapping[str, datetime]

    @property
    def latest(self) -> datetime:
        """The time that is past what root, targets and snapshot were signed for.

        Whoever stole an online key alone must not move a device past it.
        """
        return min(self.expires[role] for role in ("root", "targets", "snapshot"))


@dataclass(frozen=True, slots=True)
class Signatory:
    """A role that signs statements of its own, with the keys that TUF carries.

    Attributes:
        delegator: Verified metadata that says which keys, and how many must sign.
    """

    role: str
    delegator: Targets

    @property
    def keys(self) -> tuple[str, ...]:
        """Digests of the ids of the role's keys."""
        ids = self.delegator.get_delegated_role(self.role).keyids
        return tuple(sorted(digest(keyid.encode()) for keyid in ids))[:MAX_KEYS]

    def has_signed(self, envelope: dsse.Opened) -> bool:
        """Return whether enough keys of the role signed exactly these bytes."""
        signatures = {
            keyid: Signature(keyid, made.hex())
            for keyid, made in envelope.signatures.items()
        }
        try:
            self.delegator.verify_delegate(self.role, envelope.signed, signatures)
        except (UnsignedMetadataError, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Verified:
    """An assignment that the director signed; whose it is was not looked at yet."""

    assignment: Assignment
    payload_sha256: str
    director_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A target as the class role lists it, with what it signed beside it."""

    file: TargetFile
    custom: Listing


def opened(envelope: bytes) -> dsse.Opened:
    """Return the assignment's envelope if it has the right size and form (6.1).

    Raises:
        RejectedError: ``TOO_LARGE``, ``MALFORMED``.
    """
    return dsse.opened(envelope, PAYLOAD_TYPE, limit=MAX_ENVELOPE_BYTES)


def reference_time(built: datetime, floor: Floor, clock: datetime) -> datetime:
    """Return the time at which metadata is judged (6.2).

    A clock that is set back cannot bring expired metadata back: the floor and the
    time of the build hold it up. One that is ahead makes metadata expire, which is
    refused and leaves no trace in the floor.
    """
    return max(built, floor.time, clock)


def time_told(
    answer: bytes, nonce: str, signatory: Signatory, latest: datetime
) -> datetime:
    """Return the time that ``answer`` tells whoever drew ``nonce`` (6.2).

    Raises:
        RejectedError: ``TOO_LARGE``, ``MALFORMED``; ``TIME_INVALID`` when it was not
            signed by the role, or for another question; ``METADATA_EXPIRED`` when it
            is past what others signed for, so that one stolen key moves no clock far.
    """
    envelope = dsse.opened(answer, signed_time.PAYLOAD_TYPE, limit=MAX_TIME_BYTES)
    if not signatory.has_signed(envelope):
        raise RejectedError(
            Code.TIME_INVALID, f"signed by {_signers(envelope)}, not by the role time"
        )
    told = SignedTime.decode(envelope.payload, limit=MAX_TIME_BYTES)
    if told.nonce != nonce:
        raise RejectedError(
            Code.TIME_INVALID, f"answers {told.nonce}, {nonce} was asked"
        )
    if told.time >= latest:
        raise RejectedError(
            Code.METADATA_EXPIRED, f"it is {told.time}, metadata expired {latest}"
        )
    return told.time


def check_unexpired(seen: Seen, now: datetime) -> None:
    """Check the metadata again at a time that was told only after 6.3.

    Raises:
        RejectedError: ``METADATA_EXPIRED``.
    """
    for role, expires in seen.expires.items():
        if now >= expires:
            raise RejectedError(
                Code.METADATA_EXPIRED, f"{role} expired {expires}, it is {now}"
            )


def raised(floor: Floor, seen: Seen) -> Floor:
    """Return the floor that a refresh leads to, none of it lower than before (6.4).

    Raises:
        RejectedError: ``METADATA_ROLLBACK``: something lies below the floor;
            ``METADATA_INVALID``: more than a floor can hold, which a thief of the
            online keys could sign to make the floor unreadable for good.
    """
    highest = max(seen.root, *seen.versions.values())
    if len(seen.versions) > MAX_ROLES or highest > MAX_VERSION:
        raise RejectedError(
            Code.METADATA_INVALID,
            f"{len(seen.versions)} roles up to version {highest:.3e}, at most "
            f"{MAX_ROLES} up to {MAX_VERSION:.3e} may be",
        )
    low = below(seen, floor)
    if low is not None:
        raise RejectedError(Code.METADATA_ROLLBACK, low)
    return floor.model_copy(
        update={
            "time": max(floor.time, seen.issued or floor.time),
            "root": seen.root,
            "online_keys": seen.online_keys,
            "versions": dict(seen.versions),
        }
    )


def below(seen: Seen, floor: Floor) -> str | None:
    """Return what lies below the floor, as a sentence, or None."""
    if seen.root < floor.root:
        return f"root version {seen.root} offered, {floor.root} accepted before"
    if seen.online_keys != floor.online_keys:
        return None  # a newer root replaced the keys: versions begin anew
    for role, accepted in floor.versions.items():
        offered = seen.versions.get(role, 0)
        if offered < accepted:
            return f"{role} version {offered} offered, {accepted} accepted before"
    return None


def verified(envelope: dsse.Opened, director: Signatory) -> Verified:
    """Return the assignment that the director signed (6.5).

    Raises:
        RejectedError: ``ASSIGNMENT_UNSIGNED``; then ``MALFORMED`` or
            ``VERSION_UNKNOWN``.
    """
    if not director.has_signed(envelope):
        raise RejectedError(
            Code.ASSIGNMENT_UNSIGNED,
            f"signed by {_signers(envelope)}, not by the {director.role}",
        )
    assignment = Assignment.decode(envelope.payload, limit=MAX_ENVELOPE_BYTES)
    return Verified(assignment, digest(envelope.payload), director.keys)


def check_address(assignment: Assignment, device: str, device_class: str) -> None:
    """Check that the assignment is for this device and its class (6.6).

    Raises:
        RejectedError: ``WRONG_DEVICE`` or ``WRONG_CLASS``.
    """
    if assignment.device != device:
        raise RejectedError(
            Code.WRONG_DEVICE, f"for {assignment.device}, this device is {device}"
        )
    if assignment.device_class != device_class:
        raise RejectedError(
            Code.WRONG_CLASS,
            f"for class {assignment.device_class}, this device is of {device_class}",
        )


def counted_by(floor: Floor, offered: Verified) -> Floor:
    """Return the floor that holds for what the director of ``offered`` signs (6.6).

    Sequences begin anew when every key was replaced under which they were accepted:
    what the old keys signed is refused by 6.5.
    """
    before = floor.director_keys
    if not before or not set(before).isdisjoint(offered.director_keys):
        return floor
    return floor.model_copy(update={"sequence": 0, "payload_sha256": ""})


def is_redelivery(offered: Verified, floor: Floor, now: datetime) -> bool:
    """Return whether the same bytes were accepted last (6.6).

    Raises:
        RejectedError: ``ASSIGNMENT_EXPIRED`` or ``ASSIGNMENT_REPLAYED``.
    """
    assignment = offered.assignment
    if assignment.expired(now):
        raise RejectedError(
            Code.ASSIGNMENT_EXPIRED, f"expired {assignment.expires}, it is {now}"
        )
    if assignment.sequence < floor.sequence:
        raise RejectedError(
            Code.ASSIGNMENT_REPLAYED,
            f"sequence {assignment.sequence} offered, {floor.sequence} accepted before",
        )
    redelivery = assignment.sequence == floor.sequence
    if redelivery and offered.payload_sha256 != floor.payload_sha256:
        raise RejectedError(
            Code.ASSIGNMENT_REPLAYED,
            f"sequence {assignment.sequence} was accepted before with other bytes",
        )
    return redelivery


def check_path(target: Target, device_class: str) -> None:
    """Check that the target lies under the device's own class (6.7).

    Raises:
        RejectedError: ``WRONG_CLASS``.
    """
    if not target.path.startswith(f"classes/{device_class}/"):
        raise RejectedError(
            Code.WRONG_CLASS, f"{target.path} is not of class {device_class}"
        )


def listed(target: Target, file: TargetFile | None) -> Listed:
    """Return what the class role, whose key the director lacks, says of it (6.8).

    Raises:
        RejectedError: ``TARGET_UNKNOWN`` when it is not listed, ``TARGET_MISMATCH``
            when the two disagree, ``MALFORMED`` or ``VERSION_UNKNOWN`` for what is
            signed beside it.
    """
    if file is None:
        raise RejectedError(Code.TARGET_UNKNOWN, f"{target.path} is not listed")
    stated = (file.length, file.hashes.get("sha256"))
    if stated != (target.length, target.sha256):
        raise RejectedError(
            Code.TARGET_MISMATCH,
            f"{target.path}: the director says {target.length} bytes, "
            f"{target.sha256}; the class role says {stated[0]} bytes, {stated[1]}",
        )
    custom = file.unrecognized_fields.get("custom")
    try:
        beside = json.dumps(custom).encode()
    except RecursionError as error:
        raise RejectedError(
            Code.MALFORMED, f"{target.path}: what is signed beside it is too deep"
        ) from error
    return Listed(file, Listing.decode(beside))


def index_of(
    data: bytes, assignment: Assignment, listing: Listing, device_class: str
) -> Index:
    """Return the index if it is the one that was listed and assigned (6.9).

    Raises:
        RejectedError: ``METADATA_INVALID`` for another digest, ``MALFORMED``,
            ``VERSION_UNKNOWN``, ``WRONG_CLASS``, ``TARGET_MISMATCH``.
    """
    target = assignment.target
    if digest(data) != target.sha256:
        raise RejectedError(
            Code.METADATA_INVALID, f"{target.path} has the digest {digest(data)}"
        )
    index = Index.decode(data, limit=MAX_INDEX_BYTES)
    if index.device_class != device_class:
        raise RejectedError(
            Code.WRONG_CLASS,
            f"the index is for {index.device_class}, this device is of {device_class}",
        )
    path = target_path(index.device_class, index.model, index.version)
    release = release_id(index.model, index.version)
    if (path, release) != (target.path, assignment.release):
        raise RejectedError(
            Code.TARGET_MISMATCH,
            f"the assignment names {assignment.release} at {target.path}, "
            f"the index is {release}",
        )
    if index.release != listing.release:
        raise RejectedError(
            Code.TARGET_MISMATCH,
            f"{target.path}: the index is of release counter {index.release}, "
            f"the class role says {listing.release}",
        )
    return index


def check_release(index: Index, listing: Listing, floor: Floor) -> None:
    """Check that the release is not older than one of its model accepted here (6.9).

    The class role may permit it; the director, whose key is online, cannot.

    Raises:
        RejectedError: ``RELEASE_DOWNGRADE``.
    """
    newest = floor.releases.get(index.model, 0)
    if index.release < newest and not listing.downgrade:
        raise RejectedError(
            Code.RELEASE_DOWNGRADE,
            f"release counter {index.release} of {index.model} offered, "
            f"{newest} accepted before, and no permission to go back",
        )


def accepted(
    floor: Floor, offered: Verified, index: Index, still_listed: frozenset[str]
) -> Floor:
    """Return the floor after an assignment was accepted.

    When there is no room for another model, the counters of those make room that the
    class role lists no more: they cannot come back without its signature.

    Raises:
        RejectedError: ``TOO_LARGE``: there is no room for another model.
    """
    releases = dict(floor.releases)
    if index.model not in releases and len(releases) >= MAX_MODELS:
        releases = {name: it for name, it in releases.items() if name in still_listed}
    releases[index.model] = max(index.release, releases.get(index.model, 0))
    if len(releases) > MAX_MODELS:
        raise RejectedError(
            Code.TOO_LARGE,
            f"{len(releases)} models on one device, at most {MAX_MODELS} may be",
        )
    return floor.model_copy(
        update={
            "sequence": offered.assignment.sequence,
            "payload_sha256": offered.payload_sha256,
            "director_keys": offered.director_keys,
            "releases": releases,
        }
    )


def _signers(envelope: dsse.Opened) -> str:
    return ", ".join(f"{key[:12]!a}" for key in envelope.signatures)
