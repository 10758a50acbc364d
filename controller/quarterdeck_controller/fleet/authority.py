"""The fleet's certificate authority: who may speak on the broker, and as whom.

Two tiers on P-256: a root that everybody pins, and an issuing authority under it that
signs every certificate in use, so that the root's key can leave this machine at once. A
certificate file holds the leaf and the issuing certificate; the root alone is enough to
verify it. The subject of a device's certificate is its identity: organizational unit
its class, common name the device, serial number its generation, which counts the
certificates of the device from 1; its alternative name says the same as one URI. A
device makes its own key: only the public half is ever seen here. A claim certificate
lets its holder ask to be enrolled, nothing else.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quarterdeck_controller.broker.identity import device_uri
from quarterdeck_controller.fleet.requests import ProvenRequest
from quarterdeck_controller.fleet.revocation_list import (
    REVOCATIONS_DAYS,
    Revoked,
    sign_list,
)
from quarterdeck_controller.store.records import Certificate
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.enrolment import CLAIM_PREFIX
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

CONTROLLER_NAME = "controller"
"""Common name of the controller's certificate; no device may have it."""

OPERATOR_PREFIX = "operator-"
"""Common names of operators' certificates begin so; no device's id does."""

RESERVED = frozenset({CONTROLLER_NAME, "broker"})
ROOT_DAYS = 3650
ISSUING_DAYS = 1825
SERVICE_DAYS = 365
DEVICE_DAYS = 30
BACKDATED = timedelta(minutes=5)
"""Certificates begin a little early: clocks of devices run behind."""
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate chain, leaf first, and the private key of the leaf."""

    certificate_pem: bytes
    key_pem: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Write both files; only the owner may read the key."""
        write_durable(key, self.key_pem, mode=0o600)
        write_durable(certificate, self.certificate_pem)

    @property
    def pem(self) -> bytes:
        """Key and chain as one file; only the owner may read it."""
        return self.key_pem + self.certificate_pem

    @property
    def serial(self) -> str:
        """Serial number of the leaf, in hexadecimal."""
        return f"{self._leaf.serial_number:x}"

    @property
    def expires(self) -> datetime:
        """When the leaf is no longer valid."""
        return self._leaf.not_valid_after_utc

    @property
    def _leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate_pem)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was issued for somebody else's key.

    Attributes:
        chain_pem: The certificate and that of the issuing authority, leaf first.
    """

    leaf: x509.Certificate
    chain_pem: bytes

    @property
    def record(self) -> Certificate:
        """The certificate as it is kept."""
        key = self.leaf.public_key()
        return Certificate(
            serial=f"{self.leaf.serial_number:x}",
            device=_attribute(self.leaf, NameOID.COMMON_NAME),
            generation=int(_attribute(self.leaf, NameOID.SERIAL_NUMBER)),
            public_key=key.public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            ),
            not_before=self.leaf.not_valid_before_utc,
            not_after=self.leaf.not_valid_after_utc,
            certificate=self.leaf.public_bytes(Encoding.DER),
        )


@dataclass(frozen=True, slots=True)
class _Signer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class _Leaf:
    """What a certificate says about its holder."""

    subject: x509.Name
    usages: tuple[x509.ObjectIdentifier, ...]
    days: float
    alternative: tuple[x509.GeneralName, ...] = ()


class Authority:
    """Issues certificates. ``open`` needs only the issuing key, never the root's."""

    def __init__(self, folder: Path, issuing: _Signer, clock: Clock) -> None:
        self._folder = folder
        self._issuing = issuing
        self._clock = clock

    @classmethod
    def create(cls, folder: Path, fleet: str, clock: Clock) -> Self:
        """Make a root and an issuing authority in ``folder``, which must have none.

        Raises:
            RejectedError: ``CONFLICT`` when there is an authority already.
        """
        if (folder / "root.pem").exists():
            raise RejectedError(Code.CONFLICT, f"{folder} holds an authority already")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        now = clock.now()
        root = _certify_authority(fleet, "root", None, now)
        issuing = _certify_authority(fleet, "issuing", root, now)
        for name, signer in (("issuing", issuing), ("root", root)):
            pem = signer.certificate.public_bytes(Encoding.PEM)
            files = folder / f"{name}.pem", folder / f"{name}.key"
            Identity(pem, _key_pem(signer.key)).write(*files)
        return cls(folder, issuing, clock)

    @classmethod
    def open(cls, folder: Path, clock: Clock | None = None) -> Self:
        """Return the authority in ``folder``.

        Raises:
            RejectedError: ``HOME_INVALID`` when it is missing or damaged.
        """
        try:
            issuing = _load(folder / "issuing.pem", folder / "issuing.key")
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RejectedError(
                Code.HOME_INVALID, f"the authority in {folder} cannot be used: {error}"
            ) from error
        return cls(folder, issuing, clock or SystemClock())

    @property
    def root_file(self) -> Path:
        """The certificate that everybody pins."""
        return self._folder / "root.pem"

    def issue_server(
        self, hosts: Sequence[str], *, days: float = SERVICE_DAYS
    ) -> Identity:
        """Return an identity for the broker, reachable as any of ``hosts``.

        Raises:
            RejectedError: ``SETTINGS_INVALID`` when a host is no name or address.
        """
        if not hosts:
            raise ValueError("a server without a host cannot be verified by anybody")
        alternative = tuple(_host_name(host) for host in hosts)
        usages = (ExtendedKeyUsageOID.SERVER_AUTH,)
        return self._issue(_Leaf(_subject("broker"), usages, days, alternative))

    def issue_controller(self, *, days: float = SERVICE_DAYS) -> Identity:
        """Return the identity with which the controller speaks on the broker."""
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        return self._issue(_Leaf(_subject(CONTROLLER_NAME), usages, days))

    def issue_device(
        self,
        request: ProvenRequest,
        device_class: str,
        generation: int,
        *,
        days: float = DEVICE_DAYS,
    ) -> Issued:
        """Return a certificate for the key of a device that has proven it.

        Raises:
            RejectedError: ``NAME_INVALID`` when a name is not valid or reserved.
        """
        check_device_name(request.device)
        if not is_name(device_class):
            raise RejectedError(Code.NAME_INVALID, f"device class {device_class!r}")
        if generation < 1:
            raise ValueError(f"generation {generation}: they count from 1")
        subject = _subject(request.device, device_class, generation)
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        uri = x509.UniformResourceIdentifier(
            device_uri(request.device, device_class, generation)
        )
        return self._certify(_Leaf(subject, usages, days, (uri,)), request.key)

    def issue_claim(self, name: str, *, days: float) -> Identity:
        """Return an identity that may ask to be enrolled, with its key.

        Raises:
            RejectedError: ``NAME_INVALID`` when ``name`` is none of a claim.
        """
        if not (is_name(name) and name.startswith(CLAIM_PREFIX)):
            raise RejectedError(Code.NAME_INVALID, f"{name!r} cannot name a claim")
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        return self._issue(_Leaf(_subject(name), usages, days))

    def issue_operator(self, operator: str, *, days: float) -> Identity:
        """Return an identity with which an operator asks things of the controller.

        The broker lets nobody in by it: it is in no admission.

        Raises:
            RejectedError: ``NAME_INVALID`` when the name is not valid.
        """
        name = OPERATOR_PREFIX + operator
        if not is_name(name):
            raise RejectedError(Code.NAME_INVALID, f"operator {operator!r}")
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        return self._issue(_Leaf(_subject(name), usages, days))

    def chain(self, leaf: bytes) -> bytes:
        """Return the chain (PEM) of a certificate (DER) that was issued before."""
        certificate = x509.load_der_x509_certificate(leaf)
        return _chain(certificate, self._issuing.certificate)

    def revocation_list(
        self, revoked: Iterable[Revoked], *, days: float = REVOCATIONS_DAYS
    ) -> bytes:
        """Return the list of revocations (PEM), good for ``days``.

        It is followed by the root's own, which is empty, while the root's key is here:
        a broker that checks every link of a chain needs both.
        """
        now, root = self._clock.now(), self._root()
        issuing = self._issuing
        listed = sign_list(issuing.certificate, issuing.key, revoked, now, days=days)
        if root is None:
            return listed
        return listed + sign_list(root.certificate, root.key, (), now, days=days)

    def _root(self) -> _Signer | None:
        try:
            return _load(self._folder / "root.pem", self._folder / "root.key")
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            return None  # it has left, as it should

    def _certify(self, leaf: _Leaf, key: ec.EllipticCurvePublicKey) -> Issued:
        certificate = _certify(leaf, key, self._issuing, self._clock.now())
        return Issued(certificate, _chain(certificate, self._issuing.certificate))

    def _issue(self, leaf: _Leaf) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._certify(leaf, key.public_key())
        return Identity(issued.chain_pem, _key_pem(key))


def check_device_name(device: str) -> None:
    """Refuse a name that no device may have.

    Raises:
        RejectedError: ``NAME_INVALID``.
    """
    if not is_name(device):
        raise RejectedError(Code.NAME_INVALID, f"device id {device!r}")
    if device in RESERVED or device.startswith((CLAIM_PREFIX, OPERATOR_PREFIX)):
        raise RejectedError(Code.NAME_INVALID, f"device id {device!r} is reserved")


def _attribute(leaf: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    (attribute,) = leaf.subject.get_attributes_for_oid(oid)
    return str(attribute.value)


def _chain(leaf: x509.Certificate, issuing: x509.Certificate) -> bytes:
    return b"".join(link.public_bytes(Encoding.PEM) for link in (leaf, issuing))


def _certify_authority(
    fleet: str, tier: str, parent: _Signer | None, now: datetime
) -> _Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Quarterdeck {tier}"),
        ]
    )
    days = ISSUING_DAYS if parent else ROOT_DAYS
    depth = x509.BasicConstraints(ca=True, path_length=0 if parent else 1)
    builder = (
        _builder(subject, key.public_key(), parent, now, days)
        .add_extension(depth, critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    signing = parent.key if parent else key
    return _Signer(builder.sign(signing, hashes.SHA256()), key)


def _certify(
    leaf: _Leaf, public: ec.EllipticCurvePublicKey, issuer: _Signer, now: datetime
) -> x509.Certificate:
    depth = x509.BasicConstraints(ca=False, path_length=None)
    builder = (
        _builder(leaf.subject, public, issuer, now, leaf.days)
        .add_extension(depth, critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(leaf.usages), critical=False)
    )
    if leaf.alternative:
        names = x509.SubjectAlternativeName(leaf.alternative)
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: _Signer | None,
    now: datetime,
    days: float,
) -> x509.CertificateBuilder:
    issuer_public = issuer.key.public_key() if issuer else public
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public),
            critical=False,
        )
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str, unit: str = "", generation: int = 0) -> x509.Name:
    parts = (
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.COMMON_NAME, name),
        (NameOID.SERIAL_NUMBER, str(generation) if generation else ""),
    )
    return x509.Name([x509.NameAttribute(oid, it) for oid, it in parts if it])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host):
            return x509.DNSName(host)
    raise RejectedError(
        Code.SETTINGS_INVALID, f"{host!r} is neither a host name nor an address"
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(certificate: Path, key: Path) -> _Signer:
    loaded = load_pem_private_key(key.read_bytes(), password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{key.name} is not a P-256 key")
    return _Signer(x509.load_pem_x509_certificate(certificate.read_bytes()), loaded)
