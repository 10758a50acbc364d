"""The signed repository as devices fetch it (PROTOCOL.md section 5).

A change of metadata takes one way, whoever holds the keys: ``propose`` signs with the
keys that are here; when every role has its signatures it is in force at once, else it
waits as a request until ``accept`` was given the others. What comes into force does so
in one step, which a crash cannot divide (``journal``).
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Signature, Signer
from tuf.api.metadata import (
    Metadata,
    Root,
    Signed,
    Snapshot,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from quarterdeck_controller.home import Home
from quarterdeck_controller.repository.ceremony import (
    Lack,
    check_follows,
    demands,
    lacking,
    with_signatures,
)
from quarterdeck_controller.repository.chain import Chain, Quorum, due, load, quorum
from quarterdeck_controller.repository.drafts import following, meta, next_online
from quarterdeck_controller.repository.journal import Journal, Write
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.lock import exclusive
from quarterdeck_controller.repository.parts import PartStore
from quarterdeck_controller.repository.requests import (
    Request,
    Requests,
    check_base,
    check_free,
)
from quarterdeck_controller.repository.roles import (
    KEY_ROLES,
    ONLINE,
    ROOT,
    SNAPSHOT,
    TIMESTAMP,
)
from quarterdeck_controller.repository.seal import Seals
from quarterdeck_controller.repository.soundness import check_sound
from quarterdeck_controller.repository.sweep import sweep
from quarterdeck_controller.repository.witness import anchored
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code, write_durable
from quarterdeck_shared.errors import RejectedError

LOCK_WAIT_S = 10.0
_NAME = r"[a-z0-9-]{1,64}"
_SERVED = re.compile(
    r"timestamp\.json"
    rf"|[1-9][0-9]{{0,9}}\.(root|snapshot|targets|{'|'.join(KEY_ROLES)}|class-{_NAME})"
    r"\.json"
    rf"|targets/classes/{_NAME}/[0-9a-f]{{64}}\.[a-z0-9-]{{1,80}}\.idx"
)
_COMPACT = JSONSerializer(compact=True)
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Committed:
    """A change that is in force.

    Attributes:
        roles: Whose metadata is new.
    """

    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What was signed again, and what waits for a key that is not on this machine.

    Attributes:
        requests: Ids of the requests that were opened for those that wait.
    """

    renewed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()


class Repository:
    """Reads and changes the signed repository of one fleet home.

    Args:
        write: How a file is replaced; tests interrupt it.
    """

    def __init__(
        self, home: Home, clock: Clock, *, write: Write = write_durable
    ) -> None:
        self._home = home
        self._folder = home.repository
        self._journal = Journal(home.repository, last="timestamp.json", write=write)
        self._keys = KeyFolder(home.keys)
        self._parts = PartStore(home.parts)
        self._requests = Requests(home.requests)
        self._clock = clock
        self._write = write

    @contextmanager
    def exclusive(self, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
        """Hold the repository for a change that begins with a reading.

        Raises:
            TransientError: ``CONFLICT`` when another process holds it too long.
            RejectedError: ``DISK_FULL`` or ``DISK_FAILED`` when it cannot be written;
                what was in force is.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self._folder / "lock", wait_s=wait_s):
                self._journal.settle()
                self._forget_done()
                yield
        except OSError as error:
            raise RejectedError(
                disk_code(error),
                f"{self._folder} cannot be changed: {error.strerror or error}",
            ) from error

    def chain(self) -> Chain:
        """Return the metadata in force.

        Raises:
            RejectedError: ``HOME_INVALID`` when it is damaged, ``SIGNATURES_MISSING``
                while the fleet's first metadata still waits for signatures.
        """
        for _ in range(_ATTEMPTS):
            before = self._journal.read("timestamp.json")
            try:
                return load(self.read)
            except RejectedError:
                # Another process may have changed it while it was being read.
                if self._journal.read("timestamp.json") == before:
                    self._check_begun()
                    raise
        return load(self.read)

    def has_begun(self) -> bool:
        """Return whether any metadata is in force yet."""
        return self._journal.read("1.root.json") is not None

    def read(self, name: str) -> bytes | None:
        """Return the file that a device asks for by ``name``, or None."""
        return self._journal.read(name) if _SERVED.fullmatch(name) else None

    def timestamp(self) -> bytes:
        """Return the newest signed timestamp."""
        return self._present("timestamp.json")

    def stamp(self) -> tuple[int, ...]:
        """Return what differs after every change of what is served; it costs little."""
        return self._journal.stamp()

    def newest_root(self) -> bytes:
        """Return the newest signed root, the trust anchor of a new device."""
        return self._present(f"{self.chain().root.version}.root.json")

    def in_force(self) -> dict[str, bytes]:
        """Return every file that leads from the first root to what is in force.

        Raises:
            RejectedError: As ``chain``.
        """
        if not self.has_begun():
            return {}
        return {name: self._present(name) for name in self.chain().file_names()}

    def signers(self, role: str) -> tuple[Signer, ...]:
        """Return as many of the keys in force as signing for ``role`` needs.

        Raises:
            RejectedError: ``NOT_ALLOWED`` when they are not on this machine,
                ``HOME_INVALID`` when the one here is another than devices know.
        """
        return self._keys.signers(self.chain().quorum(role))

    def requests(self) -> tuple[Request, ...]:
        """Return every change that waits for signatures, the oldest first."""
        return self._requests.open()

    def request(self, id_: str) -> Request:
        """Return the open request whose id begins so.

        Raises:
            RejectedError: ``NOT_FOUND`` when none or several do.
        """
        return self._requests.get(id_)

    def lacks(self, request: Request) -> tuple[Lack, ...]:
        """Return the signatures that ``request`` still needs, and who can give them.

        Raises:
            RejectedError: ``CONFLICT`` when it was made from metadata that is no longer
                in force.
        """
        chain = self._chain_if_begun()
        check_base(request, chain)
        return lacking(request.metadata, chain)

    def propose(
        self,
        changed: Mapping[str, Signed],
        *,
        why: str,
        attachments: Mapping[str, bytes] | None = None,
    ) -> Committed | Request:
        """Bring new metadata into force, or ask for the signatures that it lacks.

        The caller holds ``exclusive``, has read ``chain()`` inside, and made each new
        version with ``drafts.following``. Roles may be root, targets and all delegated
        ones; snapshot and timestamp follow by themselves::

            with repository.exclusive():
                chain = repository.chain()
                role = following(chain.delegated["class-cam"], "class-cam", now)
                role.targets[path] = TargetFile(...)
                files = {"parts/<sha256>": model, "targets/classes/cam/...": index}
                outcome = repository.propose(
                    {"class-cam": role}, why="release model@1", attachments=files
                )

        ``Committed``: all of it is in force and on the disk, attachments included
        (parts in ``home.parts``, indexes in the repository, keys of sealed artifacts
        in ``home.seals``). ``Request``: nothing has changed for devices;
        ``request.id`` is what ``quarterdeck key`` knows it by, and the attachments are
        kept with it, so that whoever signs can examine them.

        Raises:
            RejectedError: ``CONFLICT`` when it does not follow what is in force, or an
                open request changes one of the roles; ``METADATA_INVALID`` when it is
                of another form than we make; ``NOT_ALLOWED`` or ``HOME_INVALID`` when
                a key that must be here is not. Nothing was changed.
        """
        chain, attached = self._chain_if_begun(), dict(attachments or {})
        check_follows(changed, chain)
        for role, signed in changed.items():
            check_sound(role, signed)
        check_free(self.requests(), tuple(changed))
        metadata = {role: Metadata[Any](signed) for role, signed in changed.items()}
        self._check_online(changed, chain)
        self._sign(metadata, chain)
        if lacking(metadata, chain):
            created = self._clock.now()
            return self._requests.add(metadata, attached, why=why, created=created)
        self._commit(metadata, chain, attached)
        return Committed(tuple(changed))

    def accept(
        self, request: Request, signatures: Mapping[str, Sequence[Signature]]
    ) -> Committed | Request:
        """Add signatures to a request; bring it into force when none is lacking.

        The caller holds ``exclusive``. ``signatures``: by role.

        Raises:
            RejectedError: ``SIGNATURE_INVALID`` for one that does not fit, ``CONFLICT``
                when the request was made from metadata that is no longer in force,
                ``HOME_INVALID`` when an attached file was lost: signatures are kept.
        """
        chain = self._chain_if_begun()
        check_base(request, chain)
        grown = with_signatures(request.metadata, signatures, chain)
        request = self._requests.keep(request, grown)
        if lacking(request.metadata, chain):
            return request
        self._commit(request.metadata, chain, request.attached())
        self._requests.remove(request.id)
        return Committed(request.roles)

    def cancel(self, id_: str) -> None:
        """Forget a request, a damaged one too. The caller holds ``exclusive``.

        Raises:
            RejectedError: ``NOT_FOUND`` when no id, or several, begin so.
        """
        self._requests.remove(id_)

    def damaged_requests(self) -> tuple[str, ...]:
        """Return the ids of requests that cannot be read."""
        return self._requests.damaged()

    def renew(self, now: datetime) -> Renewal:
        """Sign again every role of which half of the validity is over.

        For those whose keys are elsewhere, a request is opened, once.

        Raises:
            TransientError: ``CONFLICT`` when another process holds the repository.
        """
        if not due(self.chain(), now):
            return Renewal()
        with self.exclusive():
            chain = self.chain()
            return self._renew(chain, due(chain, now), now)

    def _renew(self, chain: Chain, roles: Sequence[str], now: datetime) -> Renewal:
        waits = {role for request in self.requests() for role in request.roles}
        able: list[str] = []
        unable: list[str] = []
        for role in roles:
            if role in (SNAPSHOT, TIMESTAMP):
                continue
            keys = chain.quorum(role)
            enough = len(self._keys.holding(keys)) >= keys.threshold
            (able if enough and role not in waits else unable).append(role)
        signed = chain.signed()
        renewed = {role: following(signed[role], role, now) for role in able}
        opened = self._ask_renewal(chain, set(unable) - waits, now)
        if renewed:
            self.propose(renewed, why="renewal before expiry")
        elif SNAPSHOT in roles or TIMESTAMP in roles:
            self._commit({}, chain, {}, snapshot=SNAPSHOT in roles)
        else:
            return Renewal((), tuple(unable), opened)
        done = tuple(role for role in roles if role not in unable)
        return Renewal(done, tuple(unable), opened)

    def _ask_renewal(
        self, chain: Chain, roles: set[str], now: datetime
    ) -> tuple[str, ...]:
        opened = []
        for role in sorted(roles - set(ONLINE)):
            new = following(chain.signed()[role], role, now)
            ends = f"{chain.signed()[role].expires:%Y-%m-%d}"
            outcome = self.propose({role: new}, why=f"{role} expires on {ends}")
            opened += [outcome.id] if isinstance(outcome, Request) else []
        return tuple(opened)

    def _forget_done(self) -> None:
        # Of a crash between a request's coming into force and its removal.
        requests = self.requests() if self.has_begun() else ()
        if not requests:
            return
        with contextlib.suppress(RejectedError):
            files = self.chain().files
            for request in requests:
                if request.is_in_force(files):
                    self._requests.remove(request.id)

    def _chain_if_begun(self) -> Chain | None:
        return self.chain() if self.has_begun() else None

    def _present(self, name: str) -> bytes:
        data = self._journal.read(name)
        if data is None:
            self._check_begun()
            raise RejectedError(Code.HOME_INVALID, f"{self._folder / name} is missing")
        return data

    def _check_begun(self) -> None:
        waiting = () if self.has_begun() else self.requests()
        if waiting:
            raise RejectedError(
                Code.SIGNATURES_MISSING,
                "the fleet's first metadata waits for signatures; the request is "
                f"{waiting[0].id}: quarterdeck key export {waiting[0].id}",
            )

    def _check_online(self, changed: Mapping[str, Signed], chain: Chain | None) -> None:
        # A request is not opened that could never come into force here.
        root = changed.get(ROOT, chain.root if chain else None)
        assert isinstance(root, Root)
        for role in (SNAPSHOT, TIMESTAMP):
            self._keys.signers(quorum(role, root))

    def _sign(self, metadata: Mapping[str, Metadata[Any]], chain: Chain | None) -> None:
        changed = {role: it.signed for role, it in metadata.items()}
        for role, it in metadata.items():
            for demand in demands(role, changed, chain):
                for signer in self._signers_here(demand.quorum):
                    if signer.public_key.keyid not in it.signatures:
                        it.sign(signer, append=True)

    def _signers_here(self, keys: Quorum) -> tuple[Signer, ...]:
        if keys.role in ONLINE:
            return self._keys.signers(keys)
        return tuple(
            file.signer(self._keys.secrets) for file in self._keys.holding(keys)
        )

    def _commit(
        self,
        metadata: Mapping[str, Metadata[Any]],
        chain: Chain | None,
        attached: Mapping[str, bytes],
        *,
        snapshot: bool = True,
    ) -> None:
        changed = {role: it.signed for role, it in metadata.items()}
        root = changed.get(ROOT, chain.root if chain else None)
        assert isinstance(root, Root)
        now = self._clock.now()
        new_snapshot, new_timestamp = next_online(chain, now)
        files = {
            f"{it.signed.version}.{role}.json": it.to_bytes(_COMPACT)
            for role, it in metadata.items()
        }
        if snapshot:
            for role, it in metadata.items():
                if role != ROOT:
                    data = files[f"{it.signed.version}.{role}.json"]
                    new_snapshot.meta[f"{role}.json"] = meta(it.signed, data)
            data = self._signed(new_snapshot, root)
            files[f"{new_snapshot.version}.snapshot.json"] = data
            new_timestamp.snapshot_meta = meta(new_snapshot, data)
        new_timestamp = anchored(new_timestamp, self._home)
        files["timestamp.json"] = self._signed(new_timestamp, root)
        self._attach(attached)
        self._journal.commit(files)
        sweep(self._journal, now)

    def _signed(self, signed: Snapshot | Timestamp, root: Root) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        for signer in self._keys.signers(quorum(signed.type, root)):
            metadata.sign(signer, append=True)
        return metadata.to_bytes(_COMPACT)

    def _attach(self, attached: Mapping[str, bytes]) -> None:
        # Named by their sha256 and listed by nothing yet: a crash leaves no harm.
        for name, data in attached.items():
            if name.startswith("parts/"):
                self._parts.put(data)
                continue
            if name.startswith("seals/"):
                Seals(self._home.seals).keep(name.removeprefix("seals/"), data)
                continue
            file = self._folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            self._write(file, data)
