"""Bytes from the broker in; an assignment that may be carried out, or a refusal.

The checks are those of PROTOCOL.md section 6, in its order and by its numbers, from
6.1 to 6.9. python-tuf decides about signed metadata; what it leaves to its caller is
done here: the reference time, a floor that survives power cuts, and the assignment.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import Field
from securesystemslib.dsse import Envelope
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.ngclient.fetcher import FetcherInterface

from quarterdeck_agent.update.floor import Floor, FloorFile
from quarterdeck_agent.update.refresh import Refreshed, Seen, Source
from quarterdeck_shared.assignment import (
    DIRECTOR_ROLE,
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    Assignment,
)
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.ids import release_id
from quarterdeck_shared.index import MAX_INDEX_BYTES, Index, digest, target_path
from quarterdeck_shared.wire import Wire


@dataclass(frozen=True, slots=True)
class Accepted:
    """An assignment that passed every check up to its index.

    Attributes:
        artifact: The index's sha256, the artifact's name on the wire.
        redelivery: The same bytes were accepted before.
    """

    assignment: Assignment
    artifact: str
    index: Index
    redelivery: bool


class Trust:
    """The device's judgement. One call of ``accept`` at a time, in a worker thread.

    Args:
        folder: Where the metadata cache and the floor are kept.
        root: The signed root that came with the device's enrolment.
        fetcher: Brings files of the repository; nothing it brings is trusted.
        built: When this software was built: no honest clock is earlier.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        device_class: str,
        root: bytes,
        fetcher: FetcherInterface,
        clock: Clock,
        built: datetime,
    ) -> None:
        self._source = Source(fetcher, folder / "metadata", root)
        self._indexes = folder / "indexes"
        self._floor_file = FloorFile(folder)
        self._device = device
        self._class = device_class
        self._clock = clock
        self._built = built

    def accept(self, envelope: bytes) -> Accepted:
        """Return the assignment in ``envelope`` with its index, or refuse it.

        The floor is durable before this returns.

        Raises:
            RejectedError: A check failed; the code says which.
            TransientError: The controller did not answer, or the disk failed.
        """
        # 6.1  Size and form of the envelope.
        sealed = _opened(envelope)
        with _translated():
            floor = self._floor_file.load(self._built)
            # 6.2  The reference time. A clock that is set back cannot bring expired
            #      metadata back: the floor and the build time hold it up.
            now = max(self._built, floor.time, self._clock.now())
            # 6.3  Root chain, timestamp, snapshot, targets.
            refreshed = Refreshed(self._source, now)
            # 6.4  Versions against the device's own floor: the library's cache is not
            #      fsynced, and it takes a damaged file for an absent one.
            floor = self._raise_floor(floor, refreshed.seen())
            # 6.5  The director's signature; only then is the payload parsed.
            assignment = _verified(sealed, refreshed)
            # 6.6  Device, class, expiry, sequence.
            _check_address(assignment, self._device, self._class)
            now = max(now, floor.time)
            redelivery = _check_freshness(assignment, sealed.payload, floor, now)
            # 6.7 to 6.9
            index = self._index(assignment, refreshed)
            if not redelivery:
                self._remember(assignment, sealed.payload, floor)
        return Accepted(assignment, assignment.target.sha256, index, redelivery)

    def _raise_floor(self, floor: Floor, seen: Seen) -> Floor:
        low = below(seen, floor)
        if low is not None:
            raise RejectedError(Code.METADATA_ROLLBACK, low)
        raised = floor.model_copy(
            update={
                "time": max(floor.time, seen.issued or floor.time),
                "root": seen.root,
                "online_keys": seen.online_keys,
                "versions": dict(seen.versions),
            }
        )
        return floor if raised == floor else self._floor_file.save(raised)

    def _index(self, assignment: Assignment, refreshed: Refreshed) -> Index:
        target = assignment.target
        # 6.7  The path lies under the device's own class.
        if not target.path.startswith(f"classes/{self._class}/"):
            raise RejectedError(
                Code.WRONG_CLASS, f"{target.path} is not of class {self._class}"
            )
        # 6.8  The class role, whose key the director does not have, lists the same.
        listing = refreshed.listing(target.path)
        if listing is None:
            raise RejectedError(Code.TARGET_UNKNOWN, f"{target.path} is not listed")
        listed = (listing.length, listing.hashes.get("sha256"))
        if listed != (target.length, target.sha256):
            raise RejectedError(
                Code.TARGET_MISMATCH,
                f"{target.path}: the director says {target.length} bytes, "
                f"{target.sha256}; the class role says {listed[0]} bytes, {listed[1]}",
            )
        # 6.9  The index itself has that digest, and is what its path says.
        data = refreshed.bring(listing, self._indexes / f"{target.sha256}.idx")
        if digest(data) != target.sha256:
            raise RejectedError(
                Code.METADATA_INVALID, f"{target.path} has the digest {digest(data)}"
            )
        self._forget_other_indexes(target.sha256)
        index = Index.decode(data, limit=MAX_INDEX_BYTES)
        _check_index(index, assignment, self._class)
        return index

    def _forget_other_indexes(self, sha256: str) -> None:
        for file in self._indexes.iterdir():
            if file.stem != sha256:
                file.unlink(missing_ok=True)

    def _remember(self, assignment: Assignment, payload: bytes, floor: Floor) -> None:
        accepted = {
            "sequence": assignment.sequence,
            "payload_sha256": digest(payload),
        }
        self._floor_file.save(floor.model_copy(update=accepted))


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


class _Signature(Wire):
    keyid: str = Field(max_length=128)
    sig: str = Field(max_length=8192)


class _Sealed(Wire):
    payload: str
    payload_type: str = Field(alias="payloadType", max_length=128)
    signatures: tuple[_Signature, ...] = Field(min_length=1, max_length=16)


def _opened(envelope: bytes) -> Envelope:
    form = _Sealed.decode(envelope, limit=MAX_ENVELOPE_BYTES)
    if form.payload_type != PAYLOAD_TYPE:
        raise RejectedError(
            Code.MALFORMED, f"payload type {form.payload_type!r}, not {PAYLOAD_TYPE!r}"
        )
    try:
        return Envelope.from_dict(form.model_dump(by_alias=True))
    except ValueError as error:
        raise RejectedError(Code.MALFORMED, f"envelope: {error}") from error


def _verified(sealed: Envelope, refreshed: Refreshed) -> Assignment:
    if not refreshed.is_signed(sealed, DIRECTOR_ROLE):
        keys = ", ".join(key[:12] for key in sealed.signatures)
        raise RejectedError(
            Code.ASSIGNMENT_UNSIGNED, f"signed by {keys}, not by the director"
        )
    return Assignment.decode(sealed.payload, limit=MAX_ENVELOPE_BYTES)


def _check_address(assignment: Assignment, device: str, device_class: str) -> None:
    if assignment.device != device:
        raise RejectedError(
            Code.WRONG_DEVICE, f"for {assignment.device}, this device is {device}"
        )
    if assignment.device_class != device_class:
        raise RejectedError(
            Code.WRONG_CLASS,
            f"for class {assignment.device_class}, this device is of {device_class}",
        )


def _check_freshness(
    assignment: Assignment, payload: bytes, floor: Floor, now: datetime
) -> bool:
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
    if redelivery and digest(payload) != floor.payload_sha256:
        raise RejectedError(
            Code.ASSIGNMENT_REPLAYED,
            f"sequence {assignment.sequence} was accepted before with other bytes",
        )
    return redelivery


def _check_index(index: Index, assignment: Assignment, device_class: str) -> None:
    if index.device_class != device_class:
        raise RejectedError(
            Code.WRONG_CLASS,
            f"the index is for {index.device_class}, this device is of {device_class}",
        )
    path = target_path(index.device_class, index.model, index.version)
    release = release_id(index.model, index.version)
    if (path, release) != (assignment.target.path, assignment.release):
        raise RejectedError(
            Code.TARGET_MISMATCH,
            f"the assignment names {assignment.release} at {assignment.target.path}, "
            f"the index is {release}",
        )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DownloadLengthMismatchError as error:
        raise RejectedError(Code.TOO_LARGE, str(error)) from error
    except DownloadHTTPError as error:
        raise TransientError(Code.NOT_FOUND, str(error)) from error
    except DownloadError as error:
        raise TransientError(Code.TIMED_OUT, str(error)) from error
    except BadVersionNumberError as error:
        raise RejectedError(Code.METADATA_ROLLBACK, str(error)) from error
    except ExpiredMetadataError as error:
        raise RejectedError(Code.METADATA_EXPIRED, str(error)) from error
    except RepositoryError as error:
        raise RejectedError(Code.METADATA_INVALID, str(error)) from error
    except OSError as error:
        raise TransientError(disk_code(error), str(error)) from error
