"""Who asks, and whether they may: authentication, roles and the rules on operators."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from quarterdeck_controller.access import operators
from quarterdeck_controller.access.authenticate import (
    CHALLENGE_BYTES,
    Actor,
    Answer,
    Credential,
    Token,
    authenticate,
    authorize,
    signed_bytes,
)
from quarterdeck_controller.access.operators import lent_certificate, lent_token
from quarterdeck_controller.access.roles import OUTSIDE, Act, Role, permits
from quarterdeck_controller.cli.options import hoist
from quarterdeck_controller.identity.authority import Authority, check_device_name
from quarterdeck_controller.store.store import Records, Store
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

NOW = SystemClock().now()
VALID = timedelta(days=90)
CHALLENGE = bytes(range(CHALLENGE_BYTES))


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    with Store.open(tmp_path / "db") as store, store.write() as found:
        yield found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "test", SystemClock())


def hire(records: Records, name: str, role: Role, valid: timedelta = VALID) -> Token:
    token = operators.new_token()
    operators.add(records, name, role, lent_token(token, NOW, valid), NOW)
    return Token(token)


def certify(
    records: Records, authority: Authority, name: str, role: Role
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    identity = authority.issue_operator(name, days=90)
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    operators.add(records, name, role, lent_certificate(certificate), NOW)
    key = load_pem_private_key(identity.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return certificate, key


def answer(
    certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, signed: bytes
) -> Answer:
    return Answer(certificate, CHALLENGE, key.sign(signed, ec.ECDSA(hashes.SHA256())))


def refusal(
    records: Records, credential: Credential | None, now: datetime = NOW
) -> str:
    with pytest.raises(RejectedError) as refused:
        authenticate(records, credential, now, user="ann")
    assert refused.value.code is Code.UNAUTHENTICATED
    return refused.value.detail


def test_whoever_is_at_the_machine_is_admin_while_there_are_no_operators(
    records: Records,
) -> None:
    actor = authenticate(records, None, NOW, user="ann")

    assert actor == Actor("os:ann", Role.ADMIN)


def test_a_door_that_others_reach_lets_nobody_in_without_operators(
    records: Records,
) -> None:
    with pytest.raises(RejectedError) as refused:
        authenticate(records, None, NOW)

    assert refused.value.code is Code.UNAUTHENTICATED


def test_a_token_names_its_operator(records: Records) -> None:
    hire(records, "ada", Role.ADMIN)
    token = hire(records, "vic", Role.VIEWER)

    actor = authenticate(records, token, NOW)

    assert actor == Actor("vic", Role.VIEWER, NOW + VALID)


@pytest.mark.parametrize(
    "text", ["", "qdo_", "x" * 200, "x" * 100_000, "\udcff", "ä", "' OR 1=1 --"]
)
def test_a_token_that_was_not_given_names_nobody(records: Records, text: str) -> None:
    hire(records, "ada", Role.ADMIN)

    assert "none of this home's" in refusal(records, Token(text))


def test_without_a_credential_nobody_is_let_in_once_there_are_operators(
    records: Records,
) -> None:
    hire(records, "ada", Role.ADMIN)

    assert "no token or certificate" in refusal(records, None)


def test_a_credential_ends_at_its_time(records: Records) -> None:
    token = hire(records, "ada", Role.ADMIN, timedelta(days=1))

    authenticate(records, token, NOW + timedelta(hours=23))
    told = refusal(records, token, NOW + timedelta(days=1))

    assert "operator renew ada" in told


def test_operators_that_all_ended_do_not_open_the_home_to_everybody(
    records: Records,
) -> None:
    hire(records, "ada", Role.ADMIN, timedelta(days=1))

    assert refusal(records, None, NOW + timedelta(days=2))


def test_a_revoked_operator_is_let_in_no_more(records: Records) -> None:
    hire(records, "ada", Role.ADMIN)
    token = hire(records, "vic", Role.VIEWER)
    operators.revoke(records, "vic", NOW)

    assert "vic was revoked" in refusal(records, token)


def test_a_renewed_operator_has_only_the_new_token(records: Records) -> None:
    old = hire(records, "ada", Role.ADMIN)
    new = operators.new_token()
    operators.renew(records, "ada", lent_token(new, NOW, VALID))

    assert authenticate(records, Token(new), NOW).name == "ada"
    assert refusal(records, old)


def test_the_digest_of_a_token_is_no_token(records: Records) -> None:
    token = hire(records, "ada", Role.ADMIN)

    assert refusal(records, Token(token.digest))


def test_a_certificate_names_whoever_holds_its_key(
    records: Records, authority: Authority
) -> None:
    certificate, key = certify(records, authority, "ada", Role.ADMIN)

    actor = authenticate(
        records, answer(certificate, key, signed_bytes(CHALLENGE)), NOW
    )

    assert (actor.name, actor.role) == ("ada", Role.ADMIN)


def test_a_certificate_without_its_key_names_nobody(
    records: Records, authority: Authority
) -> None:
    certificate, key = certify(records, authority, "ada", Role.ADMIN)
    other = ec.generate_private_key(ec.SECP256R1())
    bare, earlier = CHALLENGE, signed_bytes(bytes(CHALLENGE_BYTES))

    proofs = [
        answer(certificate, other, signed_bytes(CHALLENGE)),
        answer(certificate, key, earlier),
        answer(certificate, key, bare),
        Answer(certificate, CHALLENGE, b""),
    ]

    for proof in proofs:
        assert "does not belong" in refusal(records, proof)


def test_a_certificate_of_the_same_name_from_elsewhere_names_nobody(
    records: Records, authority: Authority, tmp_path: Path
) -> None:
    certify(records, authority, "ada", Role.ADMIN)
    elsewhere = Authority.create(tmp_path / "other", "test", SystemClock())
    for issuer in (elsewhere, authority):
        identity = issuer.issue_operator("ada", days=1)
        certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
        key = load_pem_private_key(identity.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)

        told = refusal(records, answer(certificate, key, signed_bytes(CHALLENGE)))

        assert "none of this home's" in told


def test_a_certificate_is_good_only_in_its_time(
    records: Records, authority: Authority
) -> None:
    certificate, key = certify(records, authority, "ada", Role.ADMIN)
    proof = answer(certificate, key, signed_bytes(CHALLENGE))

    assert "begins at" in refusal(records, proof, NOW - timedelta(days=1))
    assert "ended at" in refusal(records, proof, NOW + timedelta(days=91))


def test_no_device_may_have_the_name_of_an_operator() -> None:
    with pytest.raises(RejectedError) as refused:
        check_device_name("operator-ada")

    assert refused.value.code is Code.NAME_INVALID


@pytest.mark.parametrize("act", list(Act))
@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_what_its_order_says(role: Role, act: Act) -> None:
    order = list(Role)

    may = order.index(role) >= order.index(act.role)

    assert permits(role, act) is may
    if may:
        authorize(Actor("x", role), act)
        return
    with pytest.raises(RejectedError) as refused:
        authorize(Actor("x", role), act)
    assert refused.value.code is Code.NOT_PERMITTED
    assert f"x is {role}" in refused.value.detail
    assert str(act.role) in refused.value.detail


def test_only_admins_change_keys_and_operators_and_viewers_only_see() -> None:
    assert not permits(Role.RELEASER, Act.KEY_CHANGE)
    assert not permits(Role.RELEASER, Act.OPERATOR_CHANGE)
    assert not permits(Role.OPERATOR, Act.RELEASE_CREATE)
    assert [act for act in Act if permits(Role.VIEWER, act)] == [Act.SEE]
    assert Act.SEE not in OUTSIDE


def test_the_first_operator_is_an_admin(records: Records) -> None:
    with pytest.raises(RejectedError) as refused:
        hire(records, "vic", Role.RELEASER)

    assert refused.value.code is Code.NOT_ALLOWED
    assert not records.operators.exist()


def test_the_last_admin_who_can_act_stays(records: Records) -> None:
    hire(records, "ada", Role.ADMIN)
    hire(records, "eve", Role.ADMIN, timedelta(hours=1))
    hire(records, "rob", Role.RELEASER)
    later = NOW + timedelta(hours=2)

    changes: list[Callable[[], object]] = [
        lambda: operators.revoke(records, "ada", later),
        lambda: operators.change_role(records, "ada", Role.RELEASER, later),
    ]
    for change in changes:
        with pytest.raises(RejectedError) as refused:
            change()
        assert refused.value.code is Code.NOT_ALLOWED
        assert "last admin" in refused.value.detail
    assert operators.revoke(records, "ada", NOW).revoked_at == NOW


def test_a_name_is_given_once(records: Records) -> None:
    hire(records, "ada", Role.ADMIN)
    hire(records, "vic", Role.VIEWER)
    operators.revoke(records, "vic", NOW)

    with pytest.raises(RejectedError) as refused:
        hire(records, "vic", Role.VIEWER)

    assert refused.value.code is Code.CONFLICT


@pytest.mark.parametrize(
    "name", ["", "Ada", "os:ann", "controller", "a b", "a/b", "x" * 56, "-a", "root"]
)
def test_a_name_that_would_confuse_the_record_is_refused(
    records: Records, name: str
) -> None:
    with pytest.raises(RejectedError) as refused:
        hire(records, name, Role.ADMIN)

    assert refused.value.code is Code.NAME_INVALID


def test_the_longest_name_fits_into_a_certificate(
    records: Records, authority: Authority
) -> None:
    certificate, _ = certify(records, authority, "x" * 55, Role.ADMIN)

    assert certificate.subject.rfc4514_string() == f"CN=operator-{'x' * 55}"


def test_who_was_revoked_cannot_be_renewed_or_promoted(records: Records) -> None:
    hire(records, "ada", Role.ADMIN)
    hire(records, "vic", Role.VIEWER)
    operators.revoke(records, "vic", NOW)
    lent = lent_token(operators.new_token(), NOW, VALID)

    changes: list[Callable[[], object]] = [
        lambda: operators.renew(records, "vic", lent),
        lambda: operators.change_role(records, "vic", Role.ADMIN, NOW),
    ]
    for change in changes:
        with pytest.raises(RejectedError) as refused:
            change()
        assert refused.value.code is Code.NOT_ALLOWED
    assert operators.revoke(records, "vic", NOW + VALID).revoked_at == NOW


def test_recovery_makes_an_admin_whatever_they_were(records: Records) -> None:
    hire(records, "ada", Role.ADMIN, timedelta(hours=1))
    hire(records, "vic", Role.VIEWER)
    operators.revoke(records, "vic", NOW)

    for name in ("vic", "ada", "new"):
        token = operators.new_token()
        operators.recover(records, name, lent_token(token, NOW, VALID), NOW)

        assert authenticate(records, Token(token), NOW).role is Role.ADMIN


@pytest.mark.parametrize("valid", [timedelta(), timedelta(-1), timedelta(days=3651)])
def test_a_time_that_makes_no_sense_is_refused(valid: timedelta) -> None:
    with pytest.raises(RejectedError) as refused:
        lent_token("x", NOW, valid)

    assert refused.value.code is Code.NOT_ALLOWED


@pytest.mark.parametrize(
    ("words", "front", "rest"),
    [
        (["device", "list"], [], ["device", "list"]),
        (
            ["device", "--token-file", "t", "list"],
            ["--token-file", "t"],
            ["device", "list"],
        ),
        (["--identity=i", "device"], ["--identity=i"], ["device"]),
        (["device", "--identity"], ["--identity"], ["device"]),
        (["x", "--", "--identity", "i"], [], ["x", "--", "--identity", "i"]),
    ],
)
def test_a_credential_may_be_named_anywhere(
    words: list[str], front: list[str], rest: list[str]
) -> None:
    assert hoist(words) == (front, rest)


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {operators.new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(len(token) == len("qdo_") + 43 for token in tokens)
