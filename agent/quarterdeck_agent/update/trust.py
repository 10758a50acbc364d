"""Bytes from the broker in; an assignment that may be carried out, or a refusal.

The checks are those of PROTOCOL.md section 6, in its order and by its numbers, from
6.1 to 6.9. What they decide is in ``verify.py``, without effects; python-tuf decides
about signed metadata. Done here: fetching, and a floor that survives power cuts. The
floor rises only after the check that it stands for, and is durable before anything is
done with what was accepted.
"""

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.ngclient.fetcher import FetcherInterface

from quarterdeck_agent.update import verify
from quarterdeck_agent.update.floor import Floor, FloorFile
from quarterdeck_agent.update.refresh import Refreshed, Source
from quarterdeck_agent.update.verify import Listed, Seen
from quarterdeck_shared.assignment import DIRECTOR_ROLE, Assignment
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.index import Index, target_path
from quarterdeck_shared.reported import Slot
from quarterdeck_shared.signed_time import TIME_ROLE

_log = logging.getLogger(__name__)

Notice = Callable[[Code, str], None]
"""Told what is wrong though nothing that was asked for had to be refused."""


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


@dataclass(frozen=True, slots=True)
class _Ground:
    """What a refresh has led to: all of it verified, and the floor raised by it."""

    refreshed: Refreshed
    floor: Floor
    now: datetime


class Trust:
    """The device's judgement. One call at a time, in a worker thread.

    Args:
        folder: Where the metadata cache and the floor are kept.
        root: The signed root that came with the device's enrolment.
        fetcher: Brings files of the repository; nothing it brings is trusted.
        built: When this software was built: no honest clock is earlier.
        running: Returns what runs on the device, to learn that it was revoked.
        notice: Told of a revoked release, and of time that nobody may have signed.
        draw: Returns the nonce of a question for the time.
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
        running: Callable[[], Slot | None] = lambda: None,
        notice: Notice = lambda _code, _detail: None,
        draw: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._source = Source(fetcher, folder / "metadata", root)
        self._indexes = folder / "indexes"
        self._floor_file = FloorFile(folder)
        self._device = device
        self._class = device_class
        self._clock = clock
        self._built = built
        self._running = running
        self._notice = notice
        self._draw = draw
        self._revoked: str | None = None

    def accept(self, envelope: bytes) -> Accepted:
        """Return the assignment in ``envelope`` with its index, or refuse it.

        The floor is durable before this returns.

        Raises:
            RejectedError: A check failed; the code says which.
            TransientError: The controller did not answer, or the disk failed.
        """
        # 6.1  Size and form of the envelope.
        opened = verify.opened(envelope)
        with _translated():
            # 6.2 to 6.4
            ground = self._refreshed()
            # 6.5  The director's signature; only then is the payload parsed.
            director = ground.refreshed.signatory(DIRECTOR_ROLE)
            if director is None:
                raise RejectedError(
                    Code.ASSIGNMENT_UNSIGNED, f"the fleet has no {DIRECTOR_ROLE}"
                )
            offered = verify.verified(opened, director)
            # 6.6  Device, class, expiry, sequence.
            assignment = offered.assignment
            verify.check_address(assignment, self._device, self._class)
            floor = verify.counted_by(ground.floor, offered)
            redelivery = verify.is_redelivery(offered, floor, ground.now)
            # 6.7 to 6.9
            index = self._index(assignment, ground, redelivery=redelivery)
            if not redelivery:
                models = ground.refreshed.models()
                raised = verify.accepted(floor, offered, index, models)
                self._save(ground.floor, raised)
            with suppress(DownloadError, RepositoryError, TransientError):
                self._look_after_running(ground.refreshed)
        return Accepted(assignment, assignment.target.sha256, index, redelivery)

    def refresh(self) -> None:
        """Bring the metadata up to date without an assignment, checks 6.2 to 6.4.

        Raises:
            RejectedError: A check failed; the code says which.
            TransientError: The controller did not answer, or the disk failed.
        """
        with _translated():
            self._look_after_running(self._refreshed().refreshed)

    def _refreshed(self) -> _Ground:
        floor = self._floor()
        # 6.2  The reference time, as far as it is known before anybody is asked.
        now = verify.reference_time(self._built, floor, self._clock.now())
        # 6.3  Root chain, timestamp, snapshot, targets.
        refreshed = self._read_all(now)
        seen = refreshed.seen()
        # 6.4  Versions against the device's own floor: the library's cache is not
        #      fsynced, and it takes a damaged file for an absent one.
        floor = self._save(floor, verify.raised(floor, seen))
        # 6.2  The time, signed for us. Only signed time raises the floor's, and what
        #      was judged before it was known is judged again.
        told = self._time_told(refreshed, seen)
        if told is not None and told > floor.time:
            floor = self._save(floor, floor.model_copy(update={"time": told}))
        now = max(now, floor.time)
        verify.check_unexpired(seen, now)
        refreshed.judge_at(now)
        return _Ground(refreshed, floor, now)

    def _read_all(self, now: datetime) -> Refreshed:
        try:
            return Refreshed(self._source, now)
        except UnsignedMetadataError:
            # Keys may have changed after the root was read and before the rest was.
            # Read once more, from the root on, and judged as strictly: whoever serves
            # what nobody signed gains one more fetch of each file, and no more.
            return Refreshed(self._source, now)

    def _floor(self) -> Floor:
        # A new device writes its floor before anything else, so that one that has no
        # floor but a cache, or runs something, has lost it.
        lived = self._source.cache.exists() or self._running() is not None
        floor = self._floor_file.load(self._built, lived=lived)
        return floor if floor.generation else self._floor_file.save(floor)

    def _time_told(self, refreshed: Refreshed, seen: Seen) -> datetime | None:
        """Return the time as the controller signed it for us, if it did.

        An answer that is not for us is as good as none: whoever can send it could
        withhold the right one. It is told all the same. A signed time past what
        others signed for is refused: nothing that is in force then may be used.
        """
        signatory = refreshed.signatory(TIME_ROLE)
        if signatory is None:
            return None
        nonce = self._draw()
        try:
            answer = refreshed.ask_time(nonce)
            if answer is None:
                return None
            return verify.time_told(answer, nonce, signatory, seen.latest)
        except DownloadLengthMismatchError as error:
            self._tell(Code.TOO_LARGE, f"the time: {error}")
        except RejectedError as error:
            if error.code is Code.METADATA_EXPIRED:
                raise
            self._tell(error.code, f"the time: {error.detail}")
        return None

    def _index(
        self, assignment: Assignment, ground: _Ground, *, redelivery: bool
    ) -> Index:
        target = assignment.target
        # 6.7  The path lies under the device's own class.
        verify.check_path(target, self._class)
        # 6.8  The class role, whose key the director does not have, lists the same.
        listed = verify.listed(target, ground.refreshed.listing(target.path))
        # 6.9  The index itself has that digest, is what its path says, and is not
        #      older than what was accepted before. A redelivery was judged already.
        data = self._bring(ground.refreshed, listed)
        index = verify.index_of(data, assignment, listed.custom, self._class)
        if not redelivery:
            verify.check_release(index, listed.custom, ground.floor)
        return index

    def _bring(self, refreshed: Refreshed, listed: Listed) -> bytes:
        """Return the listed bytes, and forget those of other indexes."""
        sha256 = listed.file.hashes["sha256"]
        data = refreshed.bring(listed.file, self._indexes / f"{sha256}.idx")
        for file in self._indexes.iterdir():
            if file.stem != sha256:
                file.unlink(missing_ok=True)
        return data

    def _look_after_running(self, refreshed: Refreshed) -> None:
        """Notice, once, that what runs is listed no more. It goes on running."""
        slot = self._running()
        if slot is None:
            return
        model, _, version = slot.release.partition("@")
        path = target_path(self._class, model, int(version))
        file = refreshed.listing(path)
        if file is not None and file.hashes.get("sha256") == slot.digest:
            self._revoked = None
        elif self._revoked != slot.digest:
            self._revoked = slot.digest
            self._tell(
                Code.TARGET_REVOKED, f"{slot.release} ({slot.digest[:12]}) runs here"
            )

    def _tell(self, code: Code, detail: str) -> None:
        _log.warning("%s: %s", code, detail)
        self._notice(code, detail)

    def _save(self, floor: Floor, raised: Floor) -> Floor:
        return floor if raised == floor else self._floor_file.save(raised)


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
