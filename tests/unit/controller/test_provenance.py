"""Provenance: only what enough keys of the role signed is believed, and only then."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import DelegatedRole, Delegations, Targets

from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.release import provenance
from quarterdeck_controller.release.attest import attest, examine, find_variants
from quarterdeck_controller.release.statement import Statement
from quarterdeck_controller.repository.roles import PROVENANCE
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import digest
from tests.support.releases import evaluation, golden_bytes, model_bytes, write_variants

OURS = CryptoSigner.generate_ed25519()
SECOND = CryptoSigner.generate_ed25519()
THIEF = CryptoSigner.generate_ed25519()
FILES = {"model.onnx": model_bytes(), "golden.npz": golden_bytes()}


def targets(*signers: Signer, threshold: int = 1) -> Targets:
    """Return a targets role that lets these keys vouch."""
    keys = {signer.public_key.keyid: signer.public_key for signer in signers}
    role = DelegatedRole(
        PROVENANCE, list(keys), threshold, terminating=True, paths=["provenance/*"]
    )
    return Targets(delegations=Delegations(keys, {PROVENANCE: role}))


def record(**changes: object) -> Evaluation:
    return evaluation(files=FILES).model_copy(update=changes)


def statement() -> Statement:
    made = record()
    return provenance.state(made, made.encode())


def test_what_a_key_of_the_role_signed_is_what_comes_out() -> None:
    envelope = provenance.seal(statement(), [OURS])

    assert provenance.verify(envelope, targets(OURS)) == statement()


def test_the_statement_is_in_toto_and_slsa_as_others_read_them() -> None:
    envelope = json.loads(provenance.seal(statement(), [OURS]))
    payload = json.loads(base64.b64decode(envelope["payload"]))

    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [one["name"] for one in payload["subject"]] == list(provenance.SUBJECTS)
    build = payload["predicate"]["buildDefinition"]
    assert build["buildType"] == "urn:quarterdeck:quantize:v1"
    assert build["externalParameters"]["class"] == "cam"
    assert {"name": "float model", "digest": {"sha256": "0" * 64}} in build[
        "resolvedDependencies"
    ]
    assert {"name": "onnxruntime", "uri": "pkg:pypi/onnxruntime@1.32.0"} in build[
        "resolvedDependencies"
    ]
    run = payload["predicate"]["runDetails"]
    assert run["builder"] == {"id": "urn:quarterdeck:optimizer"}
    assert run["metadata"]["invocationId"] == "a run of the tests"
    assert "null" not in base64.b64decode(envelope["payload"]).decode()


def another_type(envelope: dict[str, object]) -> None:
    envelope["payloadType"] = "application/vnd.quarterdeck.assignment.v2+json"


def another_payload(envelope: dict[str, object]) -> None:
    other = statement().model_dump(mode="json") | {"subject": []}
    envelope["payload"] = base64.b64encode(json.dumps(other).encode()).decode()


def no_signature(envelope: dict[str, object]) -> None:
    envelope["signatures"] = []


def signed_twice(envelope: dict[str, object]) -> None:
    signatures = envelope["signatures"]
    assert isinstance(signatures, list)
    signatures.append(signatures[0])


def no_base64(envelope: dict[str, object]) -> None:
    envelope["payload"] = "%%%"


def further_field(envelope: dict[str, object]) -> None:
    envelope["trust"] = "me"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_type, "payload type"),
        (another_payload, "signed by 0/1 keys"),
        (no_signature, "signatures"),
        (signed_twice, "twice"),
        (no_base64, "envelope"),
        (further_field, "trust"),
    ],
)
def test_a_changed_envelope_is_refused(
    change: Callable[[dict[str, object]], None], told: str
) -> None:
    envelope = json.loads(provenance.seal(statement(), [OURS]))
    change(envelope)

    with pytest.raises(RejectedError, match=told) as refusal:
        provenance.verify(json.dumps(envelope).encode(), targets(OURS))

    assert refusal.value.code is Code.PROVENANCE_INVALID


def test_another_key_vouches_for_nothing() -> None:
    with pytest.raises(RejectedError, match="0/1 keys") as refusal:
        provenance.verify(provenance.seal(statement(), [THIEF]), targets(OURS))

    assert THIEF.public_key.keyid[:12] in refusal.value.detail


def test_the_thresholds_of_the_role_count() -> None:
    both = targets(OURS, SECOND, threshold=2)
    one = provenance.seal(statement(), [OURS])
    two = provenance.seal(statement(), [OURS, SECOND])

    with pytest.raises(RejectedError, match="1/2 keys"):
        provenance.verify(one, both)
    assert provenance.verify(two, both) == statement()


def test_a_fleet_without_the_role_believes_nobody() -> None:
    with pytest.raises(RejectedError) as refusal:
        provenance.verify(provenance.seal(statement(), [OURS]), Targets())

    assert refusal.value.code is Code.PROVENANCE_INVALID


def believed(envelope: bytes) -> Statement | None:
    try:
        return provenance.verify(envelope, targets(OURS))
    except RejectedError as error:
        if error.code is not Code.PROVENANCE_INVALID:
            raise
        return None


@given(
    at=st.integers(min_value=0, max_value=4000),
    bit=st.integers(min_value=0, max_value=7),
)
@settings(max_examples=150, deadline=None)
def test_no_flipped_bit_comes_out_as_another_statement(at: int, bit: int) -> None:
    envelope = bytearray(provenance.seal(statement(), [OURS]))
    envelope[at % len(envelope)] ^= 1 << bit

    found = believed(bytes(envelope))

    assert found in (None, statement())


@given(st.binary(max_size=3000))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(RejectedError):
        provenance.verify(data, targets(OURS))


def test_endless_bytes_are_refused_before_they_are_parsed() -> None:
    data = b'{"payload":"' + b"A" * provenance.MAX_PROVENANCE_BYTES + b'"}'

    with pytest.raises(RejectedError, match="at most"):
        provenance.verify(data, targets(OURS))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"drop_points": 0.0}, "drop_points"),
        ({"reason": "because"}, "reason"),
        ({"metric": "f1"}, "metric"),
        ({"recipe": "static"}, "recipe"),
    ],
)
def test_a_statement_that_says_other_than_the_record_is_refused(
    changes: dict[str, object], told: str
) -> None:
    with pytest.raises(RejectedError, match=told) as refusal:
        provenance.check_agrees(statement(), record(**changes))

    assert refusal.value.code is Code.PROVENANCE_INVALID


def test_a_statement_of_other_data_is_refused() -> None:
    made = record()
    other = made.provenance.model_copy(update={"model_sha256": "9" * 64})

    with pytest.raises(RejectedError, match="what went in"):
        provenance.check_agrees(statement(), record(provenance=other))


def test_a_record_without_a_variant_is_vouched_for_by_nobody() -> None:
    empty = record(files={})

    with pytest.raises(RejectedError, match=r"no model\.onnx, golden\.npz"):
        provenance.state(empty, empty.encode())


def test_variants_on_disk_are_vouched_for_once_they_are_what_was_measured(
    tmp_path: Path,
) -> None:
    variants = write_variants(tmp_path / "variants")
    for folder in find_variants(variants):
        file = attest(examine(folder), [OURS])
        vouched = provenance.verify(file.read_bytes(), targets(OURS))
        assert vouched.digest("model.onnx") == digest(model_bytes(1 / 64))
        assert examine(folder).standing == (OURS.public_key.keyid,)

    assert find_variants(variants / "cam") == (variants / "cam",)
    (variants / "cam" / "model.onnx").write_bytes(model_bytes(2.0))
    with pytest.raises(RejectedError, match="changed afterwards") as refusal:
        examine(variants / "cam")
    assert refusal.value.code is Code.PROVENANCE_INVALID


def test_a_variant_in_the_folder_of_another_class_is_not_vouched_for(
    tmp_path: Path,
) -> None:
    variants = write_variants(tmp_path / "variants")
    (variants / "cam").rename(variants / "board")

    with pytest.raises(RejectedError, match="its evaluation is of cam"):
        examine(variants / "board")


def test_a_folder_without_variants_is_named(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="holds no variants"):
        find_variants(tmp_path)
