"""Write a variant for people outside the fleet, with a signature they can check."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from securesystemslib.signer import Signer

from quarterdeck_controller.release.catalog import Catalog, Variant
from quarterdeck_controller.release.model_sig import (
    SIGNATURE_FILE,
    public_pem,
    sign_files,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code, sync_folder, write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import digest

MODEL_FOLDER, PUBLIC_FILE = "model", "model.pub"


def export_signed(
    catalog: Catalog, release: str, device_class: str, signer: Signer, out: Path
) -> Mapping[str, Path]:
    """Write ``out/model/`` with the variant's files, ``model.sig`` and ``model.pub``.

    Returns where ``folder``, ``signature`` and ``public key`` are.

    Raises:
        RejectedError: ``NOT_FOUND`` for an unknown release or class, ``CONFLICT`` when
            ``out`` exists, ``HOME_INVALID`` when a part is missing or damaged,
            ``NOT_ALLOWED`` for a sealed one, ``KEY_UNUSABLE`` for a key that is not
            P-256, ``DISK_FULL`` or ``DISK_FAILED``.
    """
    variants = catalog.release(release).variants
    if device_class not in variants:
        raise RejectedError(
            Code.NOT_FOUND,
            f"{release} has no variant for {device_class}; it has: "
            f"{', '.join(variants)}",
        )
    if out.exists():
        raise RejectedError(Code.CONFLICT, f"{out} exists already; name a new folder")
    files = _files(catalog, variants[device_class])
    digests = {name: digest(data) for name, data in files.items()}
    signature = sign_files(MODEL_FOLDER, digests, signer)
    beside = {SIGNATURE_FILE: signature, PUBLIC_FILE: public_pem(signer.public_key)}
    try:
        _write(out, files, beside)
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{out} could not be written: {error.strerror}"
        ) from error
    return {
        "folder": out / MODEL_FOLDER,
        "signature": out / SIGNATURE_FILE,
        "public key": out / PUBLIC_FILE,
    }


def _files(catalog: Catalog, variant: Variant) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in variant.index.parts:
        if part.plain is not None:
            raise RejectedError(
                Code.NOT_ALLOWED, f"{part.name} is sealed: it is for devices only"
            )
        data = catalog.read_part(variant, part.name)
        if data is None or digest(data) != part.sha256:
            raise RejectedError(
                Code.HOME_INVALID, f"{part.name} is missing or damaged in the home"
            )
        found[part.name] = data
    return found


def _write(out: Path, files: Mapping[str, bytes], beside: Mapping[str, bytes]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        (fresh / MODEL_FOLDER).mkdir()
        for name, data in files.items():
            write_durable(fresh / MODEL_FOLDER / name, data)
        for name, data in beside.items():
            write_durable(fresh / name, data)
        fresh.chmod(0o755)
        fresh.rename(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
