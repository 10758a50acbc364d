"""Certificates verify over a real handshake with nothing but the root."""

import datetime as dt
import socket
import ssl
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from quarterdeck_controller.identity.authority import Authority, Identity
from quarterdeck_controller.identity.requests import prove
from quarterdeck_controller.identity.revocation_list import Revoked
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.identities import device_identity, new_key, request


class At:
    """A clock that stands still."""

    def __init__(self, now: dt.datetime) -> None:
        self._now = now

    def now(self) -> dt.datetime:
        return self._now

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "test fleet", SystemClock())


def handshake(
    authority: Authority, server: Identity, client: Identity, host: str, at: Path
) -> tuple[str, str]:
    """Return the subject that each end saw of the other, over loopback TLS 1.3."""
    contexts = []
    for name, identity, protocol in (
        ("server", server, ssl.PROTOCOL_TLS_SERVER),
        ("client", client, ssl.PROTOCOL_TLS_CLIENT),
    ):
        files = at / f"{name}.pem", at / f"{name}.key"
        identity.write(*files)
        context = ssl.SSLContext(protocol)
        context.load_verify_locations(authority.root_file)
        context.load_cert_chain(*files)
        context.verify_mode = ssl.CERT_REQUIRED
        contexts.append(context)
    seen: list[str] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        try:
            with contexts[0].wrap_socket(connection, server_side=True) as tls:
                seen.append(str(tls.getpeercert()))
                tls.sendall(b"x")
        except OSError as error:
            seen.append(repr(error))
        finally:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), 5) as plain,
                contexts[1].wrap_socket(plain, server_hostname=host) as tls,
            ):
                tls.recv(1)
                other = str(tls.getpeercert())
        finally:
            thread.join(5)
    return seen[0], other


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "edge.example"])
def test_both_ends_verify_each_other_with_only_the_root(
    authority: Authority, tmp_path: Path, host: str
) -> None:
    server = authority.issue_server(["127.0.0.1", "localhost", "edge.example"])
    client = device_identity(authority, "cam-1", "board-arm64")

    seen_by_server, seen_by_client = handshake(
        authority, server, client, host, tmp_path
    )

    assert "('commonName', 'cam-1')" in seen_by_server
    assert "('organizationalUnitName', 'board-arm64')" in seen_by_server
    assert "('commonName', 'broker')" in seen_by_client


def test_the_controllers_certificate_names_the_controller(
    authority: Authority, tmp_path: Path
) -> None:
    server = authority.issue_server(["localhost"])

    seen, _ = handshake(
        authority, server, authority.issue_controller(), "localhost", tmp_path
    )

    assert "('commonName', 'controller')" in seen


def test_a_server_under_another_host_name_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    server = authority.issue_server(["edge.example"])

    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(
            authority, server, authority.issue_controller(), "localhost", tmp_path
        )


def test_an_expired_device_certificate_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    past = At(SystemClock().now() - dt.timedelta(days=40))
    late = Authority.open(authority.root_file.parent, past)
    server = authority.issue_server(["localhost"])

    with pytest.raises(OSError, match="expired"):
        handshake(
            authority,
            server,
            device_identity(late, "cam-1", "c"),
            "localhost",
            tmp_path,
        )


def test_a_device_cannot_pose_as_the_broker(
    authority: Authority, tmp_path: Path
) -> None:
    device = device_identity(authority, "cam-1", "c")

    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(
            authority, device, authority.issue_controller(), "localhost", tmp_path
        )


def test_an_authority_of_the_same_name_is_not_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    foreign = Authority.create(tmp_path / "foreign", "test fleet", SystemClock())
    server = authority.issue_server(["localhost"])

    with pytest.raises(OSError, match=r"verify failed|unknown ca|decrypt error"):
        handshake(
            authority,
            server,
            device_identity(foreign, "cam-1", "c"),
            "localhost",
            tmp_path,
        )


def test_private_keys_are_readable_by_the_owner_only(
    authority: Authority, tmp_path: Path
) -> None:
    authority.issue_controller().write(tmp_path / "c.pem", tmp_path / "c.key")

    keys = [*authority.root_file.parent.glob("*.key"), tmp_path / "c.key"]
    assert len(keys) == 3
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_a_device_certificate_lasts_thirty_days_and_begins_five_minutes_back(
    authority: Authority,
) -> None:
    identity = device_identity(authority, "cam-1", "c")

    leaf = x509.load_pem_x509_certificate(identity.certificate_pem)
    span = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert span == dt.timedelta(days=30, minutes=5)


@pytest.mark.parametrize(
    ("device", "device_class"),
    [
        ("Cam", "c"),
        ("a/b", "c"),
        ("+", "c"),
        ("", "c"),
        ("a" * 65, "c"),
        ("cam-1", "#"),
        ("controller", "c"),
        ("broker", "c"),
        ("claim-1", "c"),
    ],
)
def test_names_that_mean_something_to_a_broker_are_refused(
    authority: Authority, device: str, device_class: str
) -> None:
    key = new_key()
    proven = replace(prove(request("cam-1", key), "cam-1"), device=device)

    with pytest.raises(RejectedError) as refusal:
        authority.issue_device(proven, device_class, 1)

    assert refusal.value.code is Code.NAME_INVALID


def test_a_subject_says_class_device_and_generation_in_this_order(
    authority: Authority,
) -> None:
    identity = device_identity(authority, "cam-1", "board-arm64", generation=7)

    leaf = x509.load_pem_x509_certificate(identity.certificate_pem)
    assert (
        leaf.subject.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})
        == "serialNumber=7,CN=cam-1,OU=board-arm64"
    )


def test_of_a_request_only_the_key_is_taken(authority: Authority) -> None:
    key = new_key()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "cam-1"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "controller"),
        ]
    )
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=9), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("broker")]), critical=False
        )
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )

    issued = authority.issue_device(prove(greedy, "cam-1"), "cam", 1)

    leaf = issued.leaf
    assert leaf.public_key() == key.public_key()
    assert [it.value for it in leaf.subject] == ["cam", "cam-1", "1"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert not names.get_values_for_type(x509.DNSName)


def test_what_was_issued_is_kept_as_it_is(authority: Authority) -> None:
    key = new_key()

    issued = authority.issue_device(prove(request("cam-1", key), "cam-1"), "cam", 3)

    kept = issued.record
    assert (kept.device, kept.generation) == ("cam-1", 3)
    assert kept.not_after == issued.leaf.not_valid_after_utc
    assert authority.chain(kept.certificate) == issued.chain_pem


@pytest.mark.parametrize("name", ["cam-1", "claim", "claim-A", "claim-" + "a" * 60])
def test_a_claim_is_known_by_its_name(authority: Authority, name: str) -> None:
    with pytest.raises(RejectedError) as refusal:
        authority.issue_claim(name, days=1)

    assert refusal.value.code is Code.NAME_INVALID


def test_a_claim_says_nothing_but_its_name(authority: Authority) -> None:
    claim = authority.issue_claim("claim-1", days=1)

    leaf = x509.load_pem_x509_certificate(claim.certificate_pem)
    assert leaf.subject.rfc4514_string() == "CN=claim-1"


def test_a_list_of_revocations_names_serials_and_lasts_a_month(
    authority: Authority,
) -> None:
    now = SystemClock().now()
    lost = Revoked("1f", now)
    old = Revoked("2e", now, replaced=True)

    pem = authority.revocation_list([lost, old])

    issuing, root = (
        x509.load_pem_x509_crl(it + b"-----END X509 CRL-----\n")
        for it in pem.split(b"-----END X509 CRL-----\n")[:2]
    )
    assert {it.serial_number for it in issuing} == {0x1F, 0x2E}
    assert not list(root)
    replaced = issuing.get_revoked_certificate_by_serial_number(0x2E)
    assert replaced is not None
    reason = replaced.extensions.get_extension_for_class(x509.CRLReason).value
    assert reason.reason is x509.ReasonFlags.superseded
    ends = issuing.next_update_utc
    assert ends is not None
    assert dt.timedelta(days=29) < ends - now < dt.timedelta(days=31)


def test_a_list_is_made_without_the_roots_key_too(authority: Authority) -> None:
    (authority.root_file.parent / "root.key").unlink()

    assert authority.revocation_list(()).count(b"BEGIN X509 CRL") == 1


def test_a_second_authority_in_the_same_folder_is_refused(
    authority: Authority,
) -> None:
    with pytest.raises(RejectedError) as refusal:
        Authority.create(authority.root_file.parent, "other", SystemClock())

    assert refusal.value.code is Code.CONFLICT


@pytest.mark.parametrize("damage", [b"", b"not a key"])
def test_a_damaged_issuing_key_is_named(authority: Authority, damage: bytes) -> None:
    (authority.root_file.parent / "issuing.key").write_bytes(damage)

    with pytest.raises(RejectedError, match="cannot be used") as refusal:
        Authority.open(authority.root_file.parent)

    assert refusal.value.code is Code.HOME_INVALID


def test_issuing_works_without_the_roots_key(authority: Authority) -> None:
    (authority.root_file.parent / "root.key").unlink()

    identity = device_identity(Authority.open(authority.root_file.parent), "cam-1", "c")

    assert identity.certificate_pem.count(b"BEGIN CERTIFICATE") == 2


@pytest.mark.parametrize("host", ["", "a b", "ünicode", "*.example", "a" * 64, "a..b"])
def test_a_host_that_cannot_be_verified_is_refused(
    authority: Authority, host: str
) -> None:
    with pytest.raises(RejectedError, match="neither a host name") as refusal:
        authority.issue_server([host])

    assert refusal.value.code is Code.SETTINGS_INVALID


def root_key(authority: Authority) -> bytes:
    return (authority.root_file.parent / "root.key").read_bytes()


def test_a_new_issuing_authority_and_what_the_old_one_issued_are_both_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    server = authority.issue_server(["localhost"])
    old = device_identity(authority, "cam-1", "c")

    successor = authority.succeed(root_key(authority))

    new = device_identity(successor, "cam-1", "c", generation=2)
    for client in (old, new):
        seen, _ = handshake(authority, server, client, "localhost", tmp_path)
        assert "('commonName', 'cam-1')" in seen
    assert issuer(new) != issuer(old)
    assert issuer(
        device_identity(Authority.open(tmp_path / "authority"), "a", "c")
    ) == (issuer(new))
    lists = successor.revocation_list([Revoked("1f", SystemClock().now())])
    assert lists.count(b"BEGIN X509 CRL") == 3


def issuer(identity: Identity) -> str:
    leaf = x509.load_pem_x509_certificate(identity.certificate_pem)
    return leaf.issuer.rfc4514_string()


def test_the_root_key_may_come_from_elsewhere_but_must_be_the_roots(
    authority: Authority, tmp_path: Path
) -> None:
    key = root_key(authority)
    (authority.root_file.parent / "root.key").unlink()
    foreign = Authority.create(tmp_path / "foreign", "test fleet", SystemClock())

    for wrong in (root_key(foreign), b"", b"rubbish"):
        with pytest.raises(RejectedError) as refusal:
            authority.succeed(wrong)
        assert refusal.value.code is Code.KEY_UNUSABLE

    before = issuer(device_identity(authority, "cam-1", "c"))
    successor = authority.succeed(key)
    assert issuer(device_identity(successor, "cam-1", "c")) != before
    assert successor.expires >= authority.expires


def test_a_change_of_the_issuing_authority_that_was_cut_off_is_finished(
    authority: Authority,
) -> None:
    folder = authority.root_file.parent
    old_key = (folder / "issuing.key").read_bytes()
    authority.succeed(root_key(authority))
    # as a power cut left it: the certificate is new, its key not yet in place
    (folder / "issuing.key").rename(folder / "issuing.next.key")
    (folder / "issuing.key").write_bytes(old_key)

    again = Authority.open(folder)

    proven = prove(request("cam-1", new_key()), "cam-1")
    leaf = again.issue_device(proven, "c", 1).leaf
    issuing = x509.load_pem_x509_certificate((folder / "issuing.pem").read_bytes())
    leaf.verify_directly_issued_by(issuing)


def test_a_key_that_is_of_no_issuing_certificate_is_named(authority: Authority) -> None:
    folder = authority.root_file.parent
    (folder / "issuing.key").write_bytes(root_key(authority))

    with pytest.raises(RejectedError) as refusal:
        Authority.open(folder)

    assert refusal.value.code is Code.HOME_INVALID
