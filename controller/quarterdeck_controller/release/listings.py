"""Targets of a class role: an index, and what is signed beside it (PROTOCOL.md 5)."""

import json
from collections.abc import Collection

from pydantic import ValidationError
from tuf.api.metadata import TargetFile, Targets

from quarterdeck_controller.release.downgrade import Listed, Permission, after_release
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import MAX_INDEX_BYTES, Index, digest, target_path
from quarterdeck_shared.listing import Listing


def target_file(index: Index, listing: Listing) -> TargetFile:
    """Return ``index`` as a class role lists it, with ``listing`` beside it.

    Raises:
        RejectedError: ``TOO_LARGE`` when no device would read the index.
    """
    data = index.encode()
    if len(data) > MAX_INDEX_BYTES:
        raise RejectedError(
            Code.TOO_LARGE,
            f"the index of {index.model}-{index.version} for {index.device_class} has "
            f"{len(data)} bytes, at most {MAX_INDEX_BYTES} are allowed; larger chunks "
            "(chunk_bytes in settings.toml) make it shorter",
        )
    return TargetFile(
        len(data),
        {"sha256": digest(data)},
        target_path(index.device_class, index.model, index.version),
        unrecognized_fields={"custom": listing.model_dump(mode="json")},
    )


def index_file(file: TargetFile) -> str:
    """Return the name under which devices fetch the index that ``file`` lists."""
    folder, _, name = file.path.rpartition("/")
    return f"targets/{folder}/{file.hashes.get('sha256', '')}.{name}"


def listing_of(file: TargetFile) -> Listing:
    """Return what is signed beside ``file``.

    Raises:
        RejectedError: ``HOME_INVALID`` when that is not valid.
    """
    try:
        return Listing.model_validate_json(json.dumps(file.custom))
    except (ValidationError, ValueError, TypeError) as error:
        raise RejectedError(
            Code.HOME_INVALID,
            f"what is signed beside {file.path} is not valid: {error}",
        ) from error


def listed_in(signed: Targets) -> tuple[Listed, ...]:
    """Return what a class role lists, as permissions are decided on.

    Raises:
        RejectedError: ``HOME_INVALID`` when it is not valid.
    """
    return tuple(_listed(file) for file in signed.targets.values())


def permit(
    signed: Targets, model: str, release: str, held: Collection[str]
) -> tuple[Permission, ...]:
    """Change the permissions in ``signed`` as the making of ``release`` asks.

    ``signed`` is about to be signed, and does not list the new release yet. Returns
    what was changed.
    """
    changed = after_release(listed_in(signed), model, release, held)
    for permission in changed:
        set_downgrade(signed, permission)
    return changed


def set_downgrade(signed: Targets, permission: Permission) -> None:
    """Sign another permission beside a target of ``signed``, which is to be signed."""
    file = signed.targets[permission.path]
    listing = listing_of(file).model_copy(update={"downgrade": permission.downgrade})
    file.unrecognized_fields["custom"] = listing.model_dump(mode="json")


def _listed(file: TargetFile) -> Listed:
    listing = listing_of(file)
    model = file.path.rpartition("/")[2].rpartition("-")[0]
    sha256 = file.hashes["sha256"]
    return Listed(file.path, sha256, model, listing.release, listing.downgrade)
