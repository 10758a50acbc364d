"""The device's identity: are its files there, and is it still valid?"""

import json
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from quarterdeck_agent.settings import Settings, invalid, read
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


def check_identity(settings: Settings, now: datetime) -> None:
    """Check that the identity's files are there and the certificate has not expired.

    Raises:
        RejectedError: ``SETTINGS_INVALID`` or ``CERTIFICATE_INVALID``.
    """
    broker = settings.broker
    for path in (broker.ca, broker.certificate, broker.key, settings.root):
        read(path)
    try:
        certificate = x509.load_pem_x509_certificate(read(broker.certificate))
    except ValueError as error:
        raise invalid(f"{broker.certificate} is no certificate: {error}") from error
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [settings.device]:
        told = ", ".join(str(name.value) for name in names) or "nobody"
        raise invalid(f"{broker.certificate} is of {told}, not of {settings.device}")
    _check_root(settings.root)
    ends = certificate.not_valid_after_utc
    if now >= ends:
        raise RejectedError(
            Code.CERTIFICATE_INVALID,
            f"{broker.certificate} expired {ends:%Y-%m-%d %H:%M} UTC, "
            f"it is {now:%Y-%m-%d %H:%M} UTC",
        )


def _check_root(path: Path) -> None:
    # Whether it can be trusted is judged where it is used; this finds a wrong file.
    try:
        is_root = json.loads(read(path))["signed"]["_type"] == "root"
    except (ValueError, KeyError, TypeError):
        is_root = False
    if not is_root:
        raise invalid(f"{path} is no signed root of a fleet")
