"""The device's identity: are its files there, and is it still valid?"""

from datetime import datetime

from cryptography import x509

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
    ends = certificate.not_valid_after_utc
    if now >= ends:
        raise RejectedError(
            Code.CERTIFICATE_INVALID,
            f"{broker.certificate} expired {ends:%Y-%m-%d %H:%M} UTC, "
            f"it is {now:%Y-%m-%d %H:%M} UTC",
        )
