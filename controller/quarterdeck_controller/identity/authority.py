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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quarterdeck_controller.broker.identity import device_uri
from quarterdeck_controller.identity.certifying import (
    Leaf,
    Signer,
    certify,
    certify_authority,
    chain_of,
    host_name,
    key_pem_of,
    subject_of,
)
from quarterdeck_controller.identity.requests import ProvenRequest
from quarterdeck_controller.identity.revocation_list import (
    REVOCATIONS_DAYS,
    Revoked,
    sign_list,
)
from quarterdeck_controller.store.records import Certificate
from quarterdeck_shared.clock import Clock, SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import sync_folder, write_durable
from quarterdeck_shared.enrolment import CLAIM_PREFIX
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name

CONTROLLER_NAME = "controller"
"""Common name of the controller's certificate; no device may have it."""

OPERATOR_PREFIX = "operator-"
"""Common names of operators' certificates begin so; no device's id does."""

RESERVED = frozenset({CONTROLLER_NAME, "broker"})
SERVICE_DAYS = 365
DEVICE_DAYS = 30
_NEXT_KEY = "issuing.next.key"


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


class Authority:
    """Issues certificates. ``open`` needs only the issuing key, never the root's."""

    def __init__(self, folder: Path, issuing: Signer, clock: Clock) -> None:
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
        root = certify_authority(fleet, "root", None, now)
        issuing = certify_authority(fleet, "issuing", root, now)
        for name, signer in (("issuing", issuing), ("root", root)):
            pem = signer.certificate.public_bytes(Encoding.PEM)
            files = folder / f"{name}.pem", folder / f"{name}.key"
            Identity(pem, key_pem_of(signer.key)).write(*files)
        return cls(folder, issuing, clock)

    @classmethod
    def open(cls, folder: Path, clock: Clock | None = None) -> Self:
        """Return the authority in ``folder``.

        Raises:
            RejectedError: ``HOME_INVALID`` when it is missing or damaged.
        """
        try:
            issuing = _open_issuing(folder)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RejectedError(
                Code.HOME_INVALID, f"the authority in {folder} cannot be used: {error}"
            ) from error
        return cls(folder, issuing, clock or SystemClock())

    @property
    def expires(self) -> datetime:
        """When the issuing certificate is no longer valid, and nothing it issued."""
        return self._issuing.certificate.not_valid_after_utc

    def succeed(self, root_key: bytes) -> Self:
        """Have a new issuing authority take over, and return it.

        What the one before has issued stays valid until it expires; its key is kept for
        its list of revocations.

        Args:
            root_key: The root's private key (PEM), wherever it is kept otherwise.

        Raises:
            RejectedError: ``KEY_UNUSABLE`` when it is not the root's.
        """
        root, now = self._signer_of_root(root_key), self._clock.now()
        (fleet,) = root.certificate.subject.get_attributes_for_oid(
            NameOID.ORGANIZATION_NAME
        )
        new = certify_authority(str(fleet.value), f"issuing {now:%Y-%m-%d}", root, now)
        folder, old = self._folder, self._issuing
        old_pem = old.certificate.public_bytes(Encoding.PEM)
        Identity(old_pem, key_pem_of(old.key)).write(
            folder / "issuing.old.pem", folder / "issuing.old.key"
        )
        # The certificate is replaced before its key: ``open`` finishes what is cut off.
        write_durable(folder / _NEXT_KEY, key_pem_of(new.key), mode=0o600)
        pem = new.certificate.public_bytes(Encoding.PEM)
        write_durable(folder / "issuing.pem", pem)
        return type(self).open(folder, self._clock)

    def _signer_of_root(self, key: bytes) -> Signer:
        try:
            root = _signer(self.root_file.read_bytes(), key)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RejectedError(
                Code.KEY_UNUSABLE, f"the authority's root key: {error}"
            ) from error
        if root is None:
            raise RejectedError(
                Code.KEY_UNUSABLE, f"the key is not that of {self.root_file}"
            )
        return root

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
        alternative = tuple(host_name(host) for host in hosts)
        usages = (ExtendedKeyUsageOID.SERVER_AUTH,)
        return self._issue(Leaf(subject_of("broker"), usages, days, alternative))

    def issue_controller(self, *, days: float = SERVICE_DAYS) -> Identity:
        """Return the identity with which the controller speaks on the broker."""
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        return self._issue(Leaf(subject_of(CONTROLLER_NAME), usages, days))

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
        subject = subject_of(request.device, device_class, generation)
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        uri = x509.UniformResourceIdentifier(
            device_uri(request.device, device_class, generation)
        )
        return self._certify(Leaf(subject, usages, days, (uri,)), request.key)

    def issue_claim(self, name: str, *, days: float) -> Identity:
        """Return an identity that may ask to be enrolled, with its key.

        Raises:
            RejectedError: ``NAME_INVALID`` when ``name`` is none of a claim.
        """
        if not (is_name(name) and name.startswith(CLAIM_PREFIX)):
            raise RejectedError(Code.NAME_INVALID, f"{name!r} cannot name a claim")
        usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
        return self._issue(Leaf(subject_of(name), usages, days))

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
        return self._issue(Leaf(subject_of(name), usages, days))

    def chain(self, leaf: bytes) -> bytes:
        """Return the chain (PEM) of a certificate (DER) that was issued before."""
        certificate = x509.load_der_x509_certificate(leaf)
        return chain_of(certificate, self._issuing.certificate)

    def revocation_list(
        self, revoked: Iterable[Revoked], *, days: float = REVOCATIONS_DAYS
    ) -> bytes:
        """Return the list of revocations (PEM), good for ``days``.

        It is followed by the root's own, which is empty, while the root's key is here:
        a broker that checks every link of a chain needs both.
        """
        now, named = self._clock.now(), tuple(revoked)
        signers = [(self._issuing, named), (self._kept("issuing.old"), named)]
        signers.append((self._kept("root"), ()))
        return b"".join(
            sign_list(it.certificate, it.key, those, now, days=days)
            for it, those in signers
            if it is not None
        )

    def _kept(self, name: str) -> Signer | None:
        try:
            return _load(self._folder, name)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            return None  # it was never there, or has left as it should

    def _certify(self, leaf: Leaf, key: ec.EllipticCurvePublicKey) -> Issued:
        certificate = certify(leaf, key, self._issuing, self._clock.now())
        return Issued(certificate, chain_of(certificate, self._issuing.certificate))

    def _issue(self, leaf: Leaf) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._certify(leaf, key.public_key())
        return Identity(issued.chain_pem, key_pem_of(key))


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


def _open_issuing(folder: Path) -> Signer:
    """Return the issuing authority; finish a change of it that was cut off."""
    issuing = _load(folder, "issuing")
    if issuing is not None:
        return issuing
    certificate = (folder / "issuing.pem").read_bytes()
    issuing = _signer(certificate, (folder / _NEXT_KEY).read_bytes())
    if issuing is None:
        raise ValueError("issuing.key is not the key of issuing.pem")
    (folder / _NEXT_KEY).replace(folder / "issuing.key")
    sync_folder(folder)
    return issuing


def _load(folder: Path, name: str) -> Signer | None:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    return _signer(certificate.read_bytes(), key.read_bytes())


def _signer(certificate: bytes, key: bytes) -> Signer | None:
    """Return both, or None when the key is of another certificate."""
    loaded = load_pem_private_key(key, password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise TypeError("the key is not on P-256")
    parsed = x509.load_pem_x509_certificate(certificate)
    belongs = parsed.public_key() == loaded.public_key()
    return Signer(parsed, loaded) if belongs else None
