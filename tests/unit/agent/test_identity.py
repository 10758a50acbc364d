"""Keys, requests, certificates, and what is done for them next."""

import random
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA224, SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quarterdeck_agent.identity.certificate import (
    Certificate,
    read_claim,
    verify_chain,
)
from quarterdeck_agent.identity.files import IdentityFiles
from quarterdeck_agent.identity.key import DeviceKey, load_key, make_key
from quarterdeck_agent.identity.openssl import OpenSsl
from quarterdeck_agent.identity.plan import Step, View, clock_doubt, plan, wait_s
from quarterdeck_agent.identity.request import certificate_request
from quarterdeck_agent.settings import BrokerSettings, IdentitySettings, Settings
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.requests import prove
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

DEVICE, CLASS = "cam-1", "cam"
BEGINS = datetime(2026, 11, 1, tzinfo=UTC)
LIFE = timedelta(days=30)
OPENSSL = OpenSsl()


def new_key() -> DeviceKey:
    return load_key(make_key(tpm=False, openssl=OPENSSL), OPENSSL)


class World:
    """An authority, and the files of one device."""

    def __init__(self, folder: Path, **identity: Path) -> None:
        self.authority = Authority.create(folder / "authority", "test", SystemClock())
        self.settings = Settings(
            device=DEVICE,
            device_class=CLASS,
            state=folder / "state",
            broker=BrokerSettings(host="localhost", port=1, ca=self.anchor_file),
            identity=IdentitySettings(**identity),
        )
        self.files = IdentityFiles(self.settings)

    @property
    def anchor_file(self) -> Path:
        return self.authority.root_file

    def chain(
        self,
        key: DeviceKey,
        device: str = DEVICE,
        device_class: str = CLASS,
        generation: int = 1,
    ) -> bytes:
        proven = prove(certificate_request(device, key), device)
        issued = self.authority.issue_device(proven, device_class, generation)
        return issued.chain_pem

    def check(self, chain: bytes, key: DeviceKey) -> Certificate:
        return verify_chain(
            chain,
            self.anchor_file.read_bytes(),
            device=DEVICE,
            device_class=CLASS,
            public=key.public,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- keys and requests ---------------------------------------------------------------


def test_a_key_signs_what_its_public_half_verifies() -> None:
    key = new_key()

    signature = key.sign(b"a statement")

    public = load_der_public_key(key.public)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, b"a statement", ec.ECDSA(SHA256()))


def test_a_key_tells_nothing_of_itself_in_its_words() -> None:
    pem = make_key(tpm=False, openssl=OPENSSL)

    told = repr(load_key(pem, OPENSSL))

    assert "PrivateKey" not in told
    assert pem.decode().splitlines()[1] not in told


def test_a_request_is_what_other_parsers_and_the_authority_take() -> None:
    key = new_key()

    request = certificate_request("d-" + "x" * 60, key)

    parsed = x509.load_pem_x509_csr(request)
    assert parsed.is_signature_valid
    assert prove(request, "d-" + "x" * 60).public_key == key.public


def _rsa() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _p384() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _locked() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    lock = BestAvailableEncryption(b"secret")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def _two() -> bytes:
    return make_key(tpm=False, openssl=OPENSSL) * 2


def _torn() -> bytes:
    pem = make_key(tpm=False, openssl=OPENSSL)
    return pem[: len(pem) // 2]


@pytest.mark.parametrize("make", [_rsa, _p384, _locked, _two, _torn, bytes])
def test_a_key_of_another_kind_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(RejectedError) as refused:
        load_key(make(), OPENSSL)

    assert refused.value.code in {Code.KEY_UNUSABLE, Code.MALFORMED}


def test_a_missing_openssl_is_said(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="cannot be run") as refused:
        make_key(tpm=True, openssl=OpenSsl(program=str(tmp_path / "nothing")))

    assert refused.value.code is Code.KEY_UNUSABLE


def test_a_key_that_was_made_outside_of_the_tpm_is_refused(tmp_path: Path) -> None:
    # without a TPM, the program makes a key of its own and says nothing
    plain = tmp_path / "plain.cnf"
    plain.write_text("")

    with pytest.raises(RejectedError, match="outside of the TPM") as refused:
        make_key(tpm=True, openssl=OpenSsl(conf=plain))

    assert refused.value.code is Code.KEY_UNUSABLE


# -- certificates --------------------------------------------------------------------


def test_our_own_certificate_is_taken_for_what_it_says(world: World) -> None:
    key = new_key()

    certificate = world.check(world.chain(key, generation=7), key)

    assert certificate.device == DEVICE
    assert certificate.device_class == CLASS
    assert certificate.generation == 7
    assert certificate.key_id == key.key_id
    assert certificate.life > timedelta(days=29)


def test_a_chain_that_is_not_ours_is_refused_with_what_is_wrong(
    world: World, tmp_path: Path
) -> None:
    key, other = new_key(), new_key()
    stranger = World(tmp_path / "stranger")
    ours = world.chain(key)
    leaf, issuing = ours.split(b"-----END CERTIFICATE-----\n")[:2]
    end = b"-----END CERTIFICATE-----\n"
    claim = world.authority.issue_claim("claim-1", days=1).certificate_pem
    wrong = {
        "another key": world.chain(other),
        "'cam-2'": world.chain(key, device="cam-2"),
        "of class 'robot'": world.chain(key, device_class="robot"),
        "nobody whom we trust": leaf + end,
        "its subject has 0": claim,
        "no certificate": b"",
        "at most 4": ours + issuing + end + issuing + end + issuing + end,
        "bytes, at most": ours * 20,
        "an authority's own": world.anchor_file.read_bytes(),
    }

    for words, chain in wrong.items():
        with pytest.raises(RejectedError, match=words):
            world.check(chain, key)
    with pytest.raises(RejectedError):
        world.check(stranger.chain(key), key)
    with pytest.raises(RejectedError):  # a leaf that another leaf issued
        world.check(leaf + end + leaf + end + issuing + end, key)


def handmade(
    world: World,
    key: DeviceKey,
    *,
    use: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ca: bool = False,
    number: str = "1",
    life: timedelta = LIFE,
    begins: timedelta = timedelta(0),
    digest: SHA224 | None = None,
) -> bytes:
    """Return a chain of which the issuing authority signed whatever is asked."""
    folder = world.anchor_file.parent
    issuing = x509.load_pem_x509_certificate((folder / "issuing.pem").read_bytes())
    private = load_pem_private_key((folder / "issuing.key").read_bytes(), None)
    public = load_der_public_key(key.public)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, CLASS),
            x509.NameAttribute(NameOID.COMMON_NAME, DEVICE),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, number),
        ]
    )
    start = issuing.not_valid_before_utc + begins
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuing.subject)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + life)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .sign(private, digest or SHA256())
    )
    links = (leaf, issuing)
    return b"".join(it.public_bytes(Encoding.PEM) for it in links)


def test_what_is_made_by_hand_is_taken_when_nothing_is_wrong(world: World) -> None:
    key = new_key()

    assert world.check(handmade(world, key), key).generation == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"use": ExtendedKeyUsageOID.SERVER_AUTH}, "not for clients"),
        ({"ca": True}, "an authority's, not a device's"),
        ({"digest": SHA224()}, "signed with sha224"),
        ({"number": "0"}, "no generation"),
        ({"number": "1e3"}, "no generation"),
        ({"number": "99999999999"}, "no generation"),
        ({"life": timedelta(0)}, "it begins"),
        ({"begins": timedelta(days=-1)}, "may not issue it"),
        ({"begins": timedelta(days=9999)}, "may not issue it"),
    ],
)
def test_a_certificate_that_nobody_should_have_signed_is_refused(
    world: World, wrong: dict[str, Any], words: str
) -> None:
    key = new_key()

    with pytest.raises(RejectedError, match=words) as refused:
        world.check(handmade(world, key, **wrong), key)

    assert refused.value.code is Code.CERTIFICATE_INVALID


def test_a_claim_is_known_by_its_name(world: World) -> None:
    identity = world.authority.issue_claim("claim-7", days=1)

    claim = read_claim(identity.key_pem + identity.certificate_pem)

    assert claim.name == "claim-7"
    with pytest.raises(RejectedError, match="no claim"):
        read_claim(world.authority.issue_controller().certificate_pem)


# -- files ---------------------------------------------------------------------------


def test_only_the_owner_reads_what_is_written(world: World) -> None:
    files, state = world.files, world.settings.state

    key = files.new_key(tpm=False)
    files.seal_key()
    asked = mode(state / "identity.new.pem")
    files.keep(world.chain(key), key)
    files.promote()

    assert asked == 0o600
    assert mode(state / "identity.pem") == 0o600
    assert mode(state / "seal.key") == 0o600
    assert len((state / "seal.key").read_bytes()) == 32
    assert not (state / "identity.new.pem").exists()


def test_an_identity_that_others_could_read_is_taken_away_from_them(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    key = world.files.new_key(tpm=False)
    world.files.keep(world.chain(key), key)
    world.files.promote()
    file = world.settings.identity_file
    file.chmod(0o644)

    world.files.load()

    assert mode(file) == 0o600
    assert "could be read by others" in caplog.text


def test_a_request_is_repeated_for_the_same_key(world: World) -> None:
    first = world.files.new_key(tpm=False)

    again = IdentityFiles(world.settings).new_key(tpm=False)

    assert again.key_id == first.key_id


def test_a_damaged_kept_key_is_made_anew(world: World) -> None:
    first = world.files.new_key(tpm=False)
    beside = world.settings.state / "identity.new.pem"
    beside.write_bytes(beside.read_bytes()[:100])

    again = world.files.new_key(tpm=False)

    assert again.key_id != first.key_id


def test_the_seal_key_stays_the_same(world: World) -> None:
    assert world.files.seal_key() == world.files.seal_key()


def test_a_damaged_seal_key_is_said_and_not_replaced(world: World) -> None:
    world.files.seal_key()
    (world.settings.state / "seal.key").write_bytes(b"short")

    with pytest.raises(RejectedError, match="5 bytes, not 32") as refused:
        world.files.seal_key()

    assert refused.value.code is Code.KEY_UNUSABLE


def test_an_identity_of_another_device_is_not_used(world: World) -> None:
    key = world.files.new_key(tpm=False)
    world.files.keep(world.chain(key), key)
    world.files.promote()
    other = world.settings.model_copy(update={"device": "cam-2"})

    with pytest.raises(RejectedError, match=r"is of cam-1, not cam-2"):
        IdentityFiles(other).load()


def test_a_key_that_settings_name_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(make_key(tpm=False, openssl=OPENSSL))
    before = path.read_bytes()
    world = World(tmp_path / "world", key=path)

    key = world.files.new_key(tpm=False)
    world.files.keep(world.chain(key), key)
    world.files.promote()

    used = world.files.load()
    assert used is not None
    assert used.key_file == path
    assert path.read_bytes() == before
    assert b"PRIVATE KEY" not in used.certificate_file.read_bytes()


# -- what is done next ---------------------------------------------------------------


def certificate(begins: datetime = BEGINS) -> Certificate:
    return Certificate(DEVICE, CLASS, 1, begins, begins + LIFE, b"\0" * 4)


def view(
    *,
    used: Certificate | None = None,
    new: Certificate | None = None,
    token: bool = False,
    connected: bool = False,
    refused: bool = False,
) -> View:
    return View(used, new, token, connected, refused)


MIDDLE = BEGINS + LIFE / 2
LATE = BEGINS + LIFE * 0.7
OVER = BEGINS + LIFE + timedelta(seconds=1)
YEARS_AWAY = datetime(1970, 1, 1, tzinfo=UTC)
CASES = [
    (view(), MIDDLE, Step.REST, Code.NOT_ENROLLED),
    (view(token=True), MIDDLE, Step.ENROL, None),
    (view(used=certificate()), MIDDLE, Step.REST, None),
    (view(used=certificate(), connected=True), MIDDLE, Step.REST, None),
    (view(used=certificate(), connected=True), LATE, Step.RENEW, None),
    (view(used=certificate()), LATE, Step.REST, None),
    (view(used=certificate()), OVER, Step.REST, Code.CERTIFICATE_INVALID),
    (view(used=certificate(), token=True), OVER, Step.ENROL, None),
    (view(used=certificate(), connected=True), OVER, Step.RENEW, None),
    (view(used=certificate()), YEARS_AWAY, Step.REST, Code.CERTIFICATE_INVALID),
    (view(used=certificate(), connected=True), YEARS_AWAY, Step.REST, None),
    (view(used=certificate(), refused=True), MIDDLE, Step.REST, None),
    (view(used=certificate(), refused=True, token=True), MIDDLE, Step.ENROL, None),
    (view(used=certificate(), connected=True, token=True), MIDDLE, Step.REST, None),
    (view(used=certificate(), new=certificate()), OVER, Step.TRY, None),
    (view(new=certificate(), token=True), MIDDLE, Step.TRY, None),
]


@pytest.mark.parametrize(("seen", "now", "step", "code"), CASES)
def test_the_next_step_is(
    seen: View, now: datetime, step: Step, code: Code | None
) -> None:
    chosen = plan(seen, now)

    assert (chosen.step, chosen.code) == (step, code)


def test_a_fleet_renews_over_time_each_device_at_its_own() -> None:
    times = {
        Certificate(DEVICE, CLASS, 1, BEGINS, BEGINS + LIFE, bytes([n]) * 4).renews()
        for n in range(256)
    }

    assert len(times) == 256
    assert min(times) >= BEGINS + LIFE * 2 / 3 - timedelta(seconds=1)
    assert max(times) <= BEGINS + LIFE * 0.71
    assert max(times) - min(times) > timedelta(days=1)


def test_waits_grow_to_a_bound_and_are_longest_after_a_refusal() -> None:
    rng = random.Random(1)

    waits = [wait_s(n, refused=False, rng=rng) for n in range(60)]

    assert waits[0] <= 1
    assert all(150 <= it <= 300 for it in waits[20:])
    assert wait_s(1, refused=True, rng=rng) >= 1800


@pytest.mark.parametrize("now", [YEARS_AWAY, OVER])
def test_a_clock_that_is_wrong_is_told_with_both_times(now: datetime) -> None:
    doubt = clock_doubt(BEGINS, BEGINS + LIFE, now)

    assert f"{now:%Y-%m-%d}" in doubt
    assert "2026-11-01" in doubt
    assert not clock_doubt(BEGINS, BEGINS + LIFE, MIDDLE)
