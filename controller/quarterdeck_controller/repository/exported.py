"""A request as it is carried to those who hold the keys, and their answers back.

The folder holds the request, the signed metadata in force (``chain``: every root, so
that it can be verified from a root that the signer trusts), and the signers' answers
(``signatures``). It is material of somebody else at both ends: a signer signs what the
folder says after having verified and shown it, and the home checks each answer against
its own copy of what it asked for.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field
from securesystemslib.signer import Signature, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from quarterdeck_controller.repository.ceremony import check_follows, demands
from quarterdeck_controller.repository.chain import Chain, load
from quarterdeck_controller.repository.keyfile import read_bounded
from quarterdeck_controller.repository.requests import (
    MAX_METADATA_BYTES,
    Request,
    read_request,
)
from quarterdeck_controller.repository.soundness import check_sound
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code, sync_folder, write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import digest
from quarterdeck_shared.wire import Wire

MAX_ANSWERS = 64
_NAME = re.compile(r"timestamp\.json|[1-9][0-9]{0,9}\.[a-z0-9-]{1,80}\.json")
_HEX = r"^[0-9a-f]{2,2048}$"


class Answer(Wire):
    """``signatures/<key>.json``: what one key signed of a request, by role."""

    v: Literal[1] = 1
    request: str = Field(pattern=r"^[0-9a-f]{8}$")
    keyid: str = Field(pattern=r"^[0-9a-f]{64}$")
    signatures: dict[str, str] = Field(min_length=1, max_length=64)


@dataclass(frozen=True, slots=True)
class Exported:
    """A request read from a folder that came from elsewhere, and verified.

    Attributes:
        chain: What is in force as the folder tells; None for a fleet that begins.
        anchor: The first root: sha256 of its bytes.
    """

    request: Request
    chain: Chain | None
    anchor: str | None

    def may_sign(self, keyid: str) -> tuple[str, ...]:
        """Return the roles of the request that the key may sign for.

        Raises:
            RejectedError: ``SIGNATURE_INVALID`` when there are none.
        """
        changed = self.request.changed()
        roles = tuple(
            role
            for role in changed
            if any(keyid in it.quorum.keys for it in demands(role, changed, self.chain))
        )
        if not roles:
            raise RejectedError(
                Code.SIGNATURE_INVALID,
                f"the key {keyid[:12]} may sign for none of {', '.join(changed)}, "
                f"which the request {self.request.id} changes",
            )
        return roles


def export(request: Request, files: Mapping[str, bytes], folder: Path) -> None:
    """Write ``request`` with ``files``, the metadata in force, to a new ``folder``.

    Raises:
        RejectedError: ``CONFLICT`` when the folder is there and not empty,
            ``DISK_FULL`` or ``DISK_FAILED`` when it cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RejectedError(
            Code.CONFLICT, f"{folder} exists and is not empty; name another folder"
        )
    beside = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(request.folder, beside)
        (beside / "chain").mkdir()
        for name, data in files.items():
            (beside / "chain" / name).write_bytes(data)
        beside.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{folder} cannot be written: {error.strerror}"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_offered(folder: Path) -> Request:
    """Return the request in a folder that somebody brings, checked against its terms.

    Raises:
        RejectedError: ``NOT_FOUND`` when there is none, ``EXPORT_DAMAGED``.
    """
    if not (folder / "request.json").is_file():
        raise RejectedError(
            Code.NOT_FOUND, f"{folder} holds no request that key export has written"
        )
    return read_request(folder, Code.EXPORT_DAMAGED)


def read_exported(folder: Path, trusted: bytes | None = None) -> Exported:
    """Return the request in ``folder``, verified as far as it can be here.

    1. The request is what its terms say; its metadata is of the form that we make.
    2. The metadata in force is signed from the first root on, each root by the one
       before; ``trusted``, a root that the signer has kept, is among them.
    3. The request follows what is in force.

    Raises:
        RejectedError: ``NOT_FOUND`` when there is none; ``EXPORT_DAMAGED``,
            ``HOME_INVALID``, ``METADATA_INVALID``, ``METADATA_ROLLBACK`` or
            ``CONFLICT`` when it is not what it should be.
    """
    request = read_offered(folder)
    for role, new in request.changed().items():
        check_sound(role, new)

    def read(name: str) -> bytes | None:
        return _read(folder / "chain", name)

    first = read("1.root.json")
    chain = load(read) if first is not None else None
    if trusted is not None:
        _check_trusted(trusted, chain, read)
    check_follows(request.changed(), chain)
    return Exported(request, chain, digest(first) if first is not None else None)


def _read(folder: Path, name: str) -> bytes | None:
    if not _NAME.fullmatch(name):
        return None
    try:
        with (folder / name).open("rb") as file:
            data = file.read(MAX_METADATA_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RejectedError(
            Code.HOME_INVALID, f"{folder / name}: {error.strerror}"
        ) from error
    if len(data) > MAX_METADATA_BYTES:
        raise RejectedError(Code.TOO_LARGE, f"{folder / name} is too large")
    return data


def _check_trusted(trusted: bytes, chain: Chain | None, read: object) -> None:
    assert callable(read)
    try:
        root = Metadata[Root].from_bytes(trusted)
    except (RepositoryError, ValueError) as error:
        raise RejectedError(
            Code.METADATA_INVALID, f"--root holds no signed root: {error}"
        ) from error
    version = root.signed.version
    newest = chain.root.version if chain else 0
    if newest < version:
        raise RejectedError(
            Code.METADATA_ROLLBACK,
            f"the request stands on root {newest}, you trust root {version}: it is "
            "old, or somebody keeps newer metadata from you",
        )
    there = Metadata[Root].from_bytes(read(f"{version}.root.json") or b"")
    if there.signed_bytes != root.signed_bytes:
        raise RejectedError(
            Code.METADATA_INVALID,
            f"root {version} of the request is not the root {version} that you trust: "
            "it is of another fleet",
        )


def sign(exported: Exported, signer: Signer, roles: Sequence[str]) -> Answer:
    """Return the signatures of ``signer`` for ``roles`` of the request.

    Raises:
        RejectedError: ``KEY_LOCKED`` or ``KEY_INVALID`` when the key cannot be used.
    """
    request = exported.request
    signatures = {
        role: signer.sign(request.metadata[role].signed_bytes).signature
        for role in roles
    }
    keyid = signer.public_key.keyid
    return Answer(request=request.id, keyid=keyid, signatures=signatures)


def keep_answer(folder: Path, answer: Answer) -> Path:
    """Write ``answer`` into the folder and return its file.

    Raises:
        RejectedError: ``DISK_FULL`` or ``DISK_FAILED``.
    """
    file = folder / "signatures" / f"{answer.keyid[:16]}.json"
    try:
        file.parent.mkdir(exist_ok=True)
        write_durable(file, answer.encode() + b"\n")
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{file} cannot be written: {error.strerror}"
        ) from error
    return file


def read_answers(folder: Path) -> tuple[Answer, ...]:
    """Return every signer's answer in ``folder``; nothing in them is trusted.

    Raises:
        RejectedError: ``NOT_FOUND`` when there is none, else what is wrong with one.
    """
    where = folder / "signatures"
    files = sorted(where.glob("*.json")) if where.is_dir() else []
    if not files:
        raise RejectedError(
            Code.NOT_FOUND,
            f"{folder} holds no signatures: quarterdeck key sign {folder} --key FILE, "
            "where the keys are",
        )
    if len(files) > MAX_ANSWERS:
        raise RejectedError(
            Code.TOO_LARGE, f"{where} holds {len(files)} files, at most {MAX_ANSWERS}"
        )
    return tuple(Answer.decode(read_bounded(file)) for file in files)


def by_role(answers: Sequence[Answer]) -> dict[str, list[Signature]]:
    """Return the signatures of all answers by the role that they are for."""
    found: dict[str, list[Signature]] = {}
    for answer in answers:
        for role, signature in answer.signatures.items():
            found.setdefault(role, []).append(Signature(answer.keyid, signature))
    return found
