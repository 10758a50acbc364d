"""The device's certificate: bytes in, trusted object out (PROTOCOL.md section 10).

Nothing here reads a clock. A reply's certificate is of a key that was made for it, so
it cannot be an old one: when its time does not fit the device's clock, that is wrong.

The checks of a chain, in this order:

1. size, form and number of certificates
2. each is signed by the next, the last by the authority that the device pins, and those
   that sign may do so
3. the leaf's public key is the one that was asked for
4. common name the device, organizational unit its class, serial number a generation
5. it is for clients, and for no authority
6. it ends after it begins
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from quarterdeck_agent.identity.pem import take_apart
from quarterdeck_shared.codes import Code
from quarterdeck_shared.enrolment import CLAIM_PREFIX, MAX_CHAIN_BYTES
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

MAX_CHAIN = 4
MAX_GENERATION = 1 << 31
RENEW_AT = 2 / 3
"""Share of a certificate's life after which the next one is asked for."""
SPREAD = 1 / 24
"""Share of its life over which a fleet that was enrolled at once renews."""

_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_DIGESTS = frozenset({"sha256", "sha384", "sha512"})
_HOSTILE = (
    ValueError,  # InvalidVersion and most of what a parser finds
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.AttributeNotFound,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UserWarning,  # where warnings are errors: of a name that breaks a length
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a device's certificate says.

    Attributes:
        public: Its public key: SubjectPublicKeyInfo, DER.
        generation: Counts the certificates of the device; 0 when it says nothing.
    """

    device: str
    device_class: str
    generation: int
    begins: datetime
    ends: datetime
    public: bytes

    @property
    def life(self) -> timedelta:
        """How long it is valid in all."""
        return self.ends - self.begins

    @property
    def key_id(self) -> str:
        """Sha256 of the public key, in hex."""
        return hashlib.sha256(self.public).hexdigest()

    def renews(self) -> datetime:
        """Return when to ask for the next one.

        Every device has a moment of its own, which a restart does not change.
        """
        share = int.from_bytes(self.public[-4:]) / (1 << 32)
        return self.begins + self.life * (RENEW_AT + SPREAD * share)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim certificate says: its name, and when it counts."""

    name: str
    begins: datetime
    ends: datetime


def verify_chain(
    chain: bytes, anchor: bytes, *, device: str, device_class: str, public: bytes
) -> Certificate:
    """Return the leaf of ``chain`` (PEM), once it is shown to be ours.

    Args:
        chain: The certificate and those that issued it, leaf first.
        anchor: The authorities that the device pins, PEM.
        device: Who must be named.
        device_class: Its class.
        public: The public key that was asked for (SubjectPublicKeyInfo, DER).

    Raises:
        RejectedError: ``TOO_LARGE`` or ``MALFORMED`` for the form, else
            ``CERTIFICATE_INVALID``.
    """
    links = _links(chain)  # 1
    with _refusing():
        _verify_signatures(links, x509.load_pem_x509_certificates(anchor))  # 2
        leaf = _described(links[0])
        if leaf.public != public:  # 3
            raise _invalid("it is of another key than the one that was asked for")
        if (leaf.device, leaf.device_class) != (device, device_class):  # 4
            told = f"{leaf.device!r} of class {leaf.device_class!r}"
            raise _invalid(f"it is of {told}, not of {device!r} of {device_class!r}")
        _check_use(links[0])  # 5
        if leaf.begins >= leaf.ends:  # 6
            raise _invalid(f"it begins {leaf.begins} and ends {leaf.ends}")
    return leaf


def read_leaf(chain: bytes) -> Certificate:
    """Return what the first certificate of ``chain`` (PEM) says; nobody vouches for it.

    Raises:
        RejectedError: ``TOO_LARGE``, ``MALFORMED`` or ``CERTIFICATE_INVALID``.
    """
    links = _links(chain)
    with _refusing():
        return _described(links[0])


def read_claim(pem: bytes) -> Claim:
    """Return what the claim certificate in ``pem`` says; nobody vouches for it.

    Raises:
        RejectedError: ``TOO_LARGE``, ``MALFORMED`` or ``CERTIFICATE_INVALID``.
    """
    leaf = _links(take_apart(pem).chain)[0]
    with _refusing():
        name = _only(leaf.subject, NameOID.COMMON_NAME)
        if not (is_name(name) and name.startswith(CLAIM_PREFIX)):
            raise _invalid(f"it is of {name!r}, which is no claim")
        return Claim(name, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _links(chain: bytes) -> Sequence[x509.Certificate]:
    if len(chain) > MAX_CHAIN_BYTES:
        detail = f"chain of {len(chain)} bytes, at most {MAX_CHAIN_BYTES} allowed"
        raise RejectedError(Code.TOO_LARGE, detail)
    pem = take_apart(chain)
    try:
        links = x509.load_pem_x509_certificates(pem.chain)
    except _HOSTILE as error:
        told = str(error).partition(".")[0]
        raise RejectedError(Code.MALFORMED, f"no certificate: {told}") from error
    if pem.key is not None or len(links) > MAX_CHAIN:
        detail = f"a chain of {len(links)} certificates, at most {MAX_CHAIN} allowed"
        raise RejectedError(Code.MALFORMED, detail)
    return links


@contextmanager
def _refusing() -> Iterator[None]:
    """Have what a parser says of hostile bytes be a refusal."""
    try:
        yield
    except _HOSTILE as error:
        raise _invalid(str(error) or type(error).__name__) from error


def _verify_signatures(
    links: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> None:
    path = [*links]
    if path[-1] not in anchors:
        path.append(_anchor_of(path[-1], anchors))
    if len(path) == 1:
        raise _invalid("it is an authority's own")
    for below, (issued, issuer) in enumerate(pairwise(path)):
        digest = issued.signature_hash_algorithm
        if digest is None or digest.name not in _DIGESTS:
            told = digest.name if digest else "no digest"
            raise _invalid(f"it is signed with {told}, which is not trusted")
        issued.verify_directly_issued_by(issuer)
        _check_authority(issuer, below, issued)


def _anchor_of(
    last: x509.Certificate, anchors: Sequence[x509.Certificate]
) -> x509.Certificate:
    for anchor in anchors:
        if anchor.subject == last.issuer:
            return anchor
    raise _invalid(f"nobody whom we trust issued it: {last.issuer.rfc4514_string()}")


def _check_authority(
    issuer: x509.Certificate, below: int, issued: x509.Certificate
) -> None:
    """Check that ``issuer`` may sign, with ``below`` authorities between it and us."""
    extensions = issuer.extensions
    depth = extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    too_deep = depth.path_length is not None and below > depth.path_length
    begins = issued.not_valid_before_utc
    in_time = issuer.not_valid_before_utc <= begins <= issuer.not_valid_after_utc
    if not (depth.ca and usage.key_cert_sign) or too_deep or not in_time:
        name = issuer.subject.rfc4514_string()
        raise _invalid(f"{name} may not issue it")


def _check_use(leaf: x509.Certificate) -> None:
    extensions = leaf.extensions
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        raise _invalid("it is not for clients")
    depth = extensions.get_extension_for_class(x509.BasicConstraints).value
    if depth.ca:
        raise _invalid("it is an authority's, not a device's")


def _described(leaf: x509.Certificate) -> Certificate:
    subject = leaf.subject
    numbers = subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    return Certificate(
        device=_only(subject, NameOID.COMMON_NAME),
        device_class=_only(subject, NameOID.ORGANIZATIONAL_UNIT_NAME),
        generation=_generation(
            _only(subject, NameOID.SERIAL_NUMBER) if numbers else ""
        ),
        begins=leaf.not_valid_before_utc,
        ends=leaf.not_valid_after_utc,
        public=leaf.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _only(subject: x509.Name, name: ObjectIdentifier) -> str:
    found = subject.get_attributes_for_oid(name)
    if len(found) != 1 or not isinstance(found[0].value, str):
        raise _invalid(f"its subject has {len(found)} of {name.dotted_string}, not one")
    return found[0].value


def _generation(text: str) -> int:
    if not text:
        return 0
    if _NUMBER.fullmatch(text) and (number := int(text)) < MAX_GENERATION:
        return number
    raise _invalid(f"its serial number {text[:20]!r} is no generation")


def _invalid(detail: str) -> RejectedError:
    return RejectedError(Code.CERTIFICATE_INVALID, f"the certificate: {detail}")
