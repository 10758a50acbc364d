"""Changes that wait for signatures of keys which are not on this machine.

Each is a folder in the home: what is to be signed, with the signatures that are there,
and the files that go with it. It is complete or not there at all.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Signed
from tuf.api.serialization.json import JSONSerializer

from quarterdeck_controller.repository.ceremony import check_follows
from quarterdeck_controller.repository.chain import Chain
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import sync_folder, write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import digest
from quarterdeck_shared.wire import Wire

MAX_REQUEST_BYTES = 1 << 20
MAX_METADATA_BYTES = 4 << 20
_COMPACT = JSONSerializer(compact=True)
log = logging.getLogger(__name__)

PART = r"parts/[0-9a-f]{64}"
INDEX = r"targets/classes/[a-z0-9-]{1,64}/[0-9a-f]{64}\.[a-z0-9-]{1,80}\.idx"
SEAL = r"seals/[0-9a-f]{64}\.key"
"""Names of attached files: a part of an artifact, an index, and what opens a sealed
artifact, as they are kept."""


class Wanted(Wire):
    """One role's new metadata: the sha256 of the bytes that are to be signed."""

    role: str = Field(pattern=r"^[a-z0-9-]{1,80}$")
    version: int = Field(ge=1)
    sha256: str


class Attached(Wire):
    """A file that goes with the request; ``name`` is its place in it."""

    name: str = Field(pattern=rf"^({PART}|{INDEX}|{SEAL})$")
    length: int = Field(ge=0)
    sha256: str


class Terms(Wire):
    """``request.json``: what is asked for."""

    v: Literal[1] = 1
    why: str = Field(min_length=1, max_length=1000)
    created: AwareDatetime
    roles: tuple[Wanted, ...] = Field(min_length=1)
    attachments: tuple[Attached, ...] = ()

    @property
    def id(self) -> str:
        """The request's name: it stands for everything that it asks for."""
        return digest(self.encode())[:8]


@dataclass(frozen=True, slots=True)
class Request:
    """A change that waits for signatures.

    Attributes:
        folder: Where it is kept.
        metadata: By role, the new metadata with the signatures that are there.
    """

    folder: Path
    terms: Terms
    metadata: Mapping[str, Metadata[Any]]

    @property
    def id(self) -> str:
        """The name by which ``quarterdeck key`` knows it."""
        return self.terms.id

    @property
    def why(self) -> str:
        """What the change is for."""
        return self.terms.why

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles whose metadata it changes."""
        return tuple(self.metadata)

    def changed(self) -> Mapping[str, Signed]:
        """Return the new metadata by role."""
        return {role: metadata.signed for role, metadata in self.metadata.items()}

    def is_in_force(self, files: Mapping[str, Metadata[Any]]) -> bool:
        """Return whether ``files``, what is in force, is what it asked for."""
        return all(
            role in files and files[role].signed_bytes == it.signed_bytes
            for role, it in self.metadata.items()
        )

    def attachment(self, name: str) -> Path:
        """Return where the attached file of that name is."""
        return self.folder / "attachments" / name

    def attached(self) -> dict[str, bytes]:
        """Return every attached file by its name.

        Raises:
            RejectedError: ``HOME_INVALID`` when one is missing or was changed.
        """
        return {it.name: self._attached(it) for it in self.terms.attachments}

    def _attached(self, wanted: Attached) -> bytes:
        file = self.attachment(wanted.name)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise RejectedError(
                Code.HOME_INVALID, f"{file} is missing: {error.strerror}"
            ) from error
        found = digest(data)
        if found != wanted.sha256:
            raise RejectedError(
                Code.HOME_INVALID,
                f"{file} has the sha256 {found[:12]}, {wanted.sha256[:12]} was asked "
                "for; bring it from the folder that was exported, or key cancel the "
                "request and ask again",
            )
        return data


def terms_of(
    metadata: Mapping[str, Metadata[Any]],
    attached: Mapping[str, bytes],
    *,
    why: str,
    created: datetime,
) -> Terms:
    """Return what is asked for by new metadata and the files that go with it."""
    wanted = (
        Wanted(role=role, version=it.signed.version, sha256=digest(it.signed_bytes))
        for role, it in metadata.items()
    )
    files = (
        Attached(name=name, length=len(data), sha256=digest(data))
        for name, data in attached.items()
    )
    return Terms(
        why=why, created=created, roles=tuple(wanted), attachments=tuple(files)
    )


class Requests:
    """The open requests of one home."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> tuple[Request, ...]:
        """Return every open request that is whole, the oldest first."""
        found = [it for path in self._paths() if (it := _whole(path)) is not None]
        return tuple(sorted(found, key=lambda it: (it.terms.created, it.id)))

    def damaged(self) -> tuple[str, ...]:
        """Return the names of requests that cannot be read: they keep nobody waiting.

        A damaged one is no reason to let the fleet's signatures expire.
        """
        return tuple(path.name for path in self._paths() if _whole(path) is None)

    def get(self, id_: str) -> Request:
        """Return the open request whose name begins with ``id_``.

        Raises:
            RejectedError: ``NOT_FOUND`` when none or several do, ``HOME_INVALID`` when
                it is damaged.
        """
        return read_request(self._path(id_))

    def add(
        self,
        metadata: Mapping[str, Metadata[Any]],
        attached: Mapping[str, bytes],
        *,
        why: str,
        created: datetime,
    ) -> Request:
        """Keep a new request, all of it or nothing. One process at a time."""
        terms = terms_of(metadata, attached, why=why, created=created)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._folder.glob(".*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        beside = self._folder / f".new-{os.getpid()}"
        try:
            _write(beside, terms, metadata, attached)
            beside.rename(self._folder / terms.id)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        sync_folder(self._folder)
        return Request(self._folder / terms.id, terms, dict(metadata))

    def keep(self, request: Request, signed: Mapping[str, Metadata[Any]]) -> Request:
        """Keep further signatures of a request."""
        for role, metadata in signed.items():
            write_durable(_file(request.folder, role), metadata.to_bytes(_COMPACT))
        return Request(request.folder, request.terms, {**request.metadata, **signed})

    def remove(self, id_: str) -> None:
        """Forget a request; its name is gone at once, its files then.

        Raises:
            RejectedError: ``NOT_FOUND`` when no name, or several, begin so.
        """
        path = self._path(id_)
        gone = path.with_name(f".gone-{path.name}")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        sync_folder(self._folder)
        shutil.rmtree(gone, ignore_errors=True)

    def _path(self, id_: str) -> Path:
        paths = tuple(self._paths())
        matching = [path for path in paths if id_ and path.name.startswith(id_)]
        if len(matching) != 1:
            known = ", ".join(path.name for path in paths) or "none"
            raise RejectedError(
                Code.NOT_FOUND, f"there is no open request {id_}; open: {known}"
            )
        return matching[0]

    def _paths(self) -> Iterator[Path]:
        if self._folder.is_dir():
            for path in sorted(self._folder.iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    yield path


def read_request(folder: Path, damaged: Code = Code.HOME_INVALID) -> Request:
    """Return the request in ``folder``, checked against its own terms.

    Raises:
        RejectedError: ``damaged`` when it is: what that means depends on whose folder
            it is.
    """
    try:
        data = _bounded(folder / "request.json", MAX_REQUEST_BYTES)
        terms = Terms.decode(data, limit=MAX_REQUEST_BYTES)
        metadata = {wanted.role: _read(folder, wanted) for wanted in terms.roles}
    except (OSError, RepositoryError, ValueError, RejectedError) as error:
        raise RejectedError(
            damaged, f"the request in {folder} is damaged: {error}"
        ) from error
    return Request(folder, terms, metadata)


def _whole(folder: Path) -> Request | None:
    try:
        return read_request(folder)
    except RejectedError as error:
        log.warning("event=request_damaged code=%s: %s", error.code, error.detail)
        return None


def _read(folder: Path, wanted: Wanted) -> Metadata[Any]:
    data = _bounded(_file(folder, wanted.role), MAX_METADATA_BYTES)
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    found = digest(metadata.signed_bytes)
    if found != wanted.sha256:
        raise ValueError(
            f"the new {wanted.role} has the sha256 {found[:12]}, "
            f"{wanted.sha256[:12]} was asked for"
        )
    return metadata


def _file(folder: Path, role: str) -> Path:
    return folder / "metadata" / f"{role}.json"


def _bounded(file: Path, limit: int) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{file.name} has more than {limit} bytes")
    return data


def _write(
    folder: Path,
    terms: Terms,
    metadata: Mapping[str, Metadata[Any]],
    attached: Mapping[str, bytes],
) -> None:
    (folder / "metadata").mkdir(parents=True)
    for name, data in attached.items():
        file = folder / "attachments" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durable(file, data, mode=0o600)
    for role, it in metadata.items():
        write_durable(_file(folder, role), it.to_bytes(_COMPACT))
    write_durable(folder / "request.json", terms.encode())


def check_free(requests: Sequence[Request], roles: Sequence[str]) -> None:
    """Refuse to change a role that an open request changes.

    Raises:
        RejectedError: ``CONFLICT`` with what to do.
    """
    for role in roles:
        other = next((it for it in requests if role in it.roles), None)
        if other is not None:
            raise RejectedError(
                Code.CONFLICT,
                f"the request {other.id} ({other.why}) changes {role} and waits for "
                "signatures: import them, or give it up with quarterdeck key cancel "
                f"{other.id}",
            )


def check_base(request: Request, chain: Chain | None) -> None:
    """Refuse a request that was made from what is no longer in force.

    Raises:
        RejectedError: ``CONFLICT`` with what to do.
    """
    try:
        check_follows(request.changed(), chain)
    except RejectedError as error:
        raise RejectedError(
            error.code,
            f"the request {request.id} was made from metadata that is no longer in "
            f"force: {error.detail}; give it up with quarterdeck key cancel "
            f"{request.id} and ask again",
        ) from error
