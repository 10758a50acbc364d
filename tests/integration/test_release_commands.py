"""``release``, ``explain`` and ``model attest`` as an operator types them."""

import subprocess
from pathlib import Path

import pytest

from quarterdeck_controller.cli.attesting import find_attester
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.release.held import held_artifacts
from quarterdeck_controller.release.provenance import signed_by
from quarterdeck_controller.repository.keyfile import PublicHalf, make_key
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.reported import Slot
from tests.support.explained import forge_assignment, report_other, settle
from tests.support.operator import Operator
from tests.support.releases import model_bytes, write_variants

CLOCK = SystemClock()


@pytest.fixture
def operator(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Operator:
    monkeypatch.setenv("COLUMNS", "200")
    return Operator(tmp_path, monkeypatch, capsys)


@pytest.fixture
def variants(operator: Operator) -> Path:
    return write_variants(
        operator.path / "v", name="m", classes=("cam",), home=operator.home
    )


def creates(operator: Operator, variants: Path, version: int, *more: object) -> None:
    said = operator.types(
        "release", "create", variants, "--name", "m", "--version", version, *more
    )
    assert said.code == 0, said.err


def test_creating_a_release_tells_what_the_gate_found(
    operator: Operator, variants: Path
) -> None:
    said = operator.types(
        "release", "create", variants, "--name", "m", "--version", "1"
    )

    assert said.code == 0
    assert "gate: m@1 for cam" in said.out
    assert "reproduces 8 golden vectors" in said.out


def test_where_the_class_key_is_elsewhere_the_way_to_it_is_told(
    operator: Operator, variants: Path
) -> None:
    (operator.home.keys / "class-cam.pem").unlink()

    said = operator.types(
        "release", "create", variants, "--name", "m", "--version", "1"
    )

    assert said.code == 0
    assert "waits for signatures" in said.out
    assert "quarterdeck key export" in said.out
    assert operator.types("release", "list", "--json").rows == []


def test_a_variant_that_nobody_vouches_for_is_attested_and_then_released(
    operator: Operator,
) -> None:
    variants = write_variants(operator.path / "v", name="m", classes=("cam",))
    refused = operator.types(
        "release", "create", variants, "--name", "m", "--version", "1"
    )

    unasked = operator.types("model", "attest", variants)
    attested = operator.types("model", "attest", variants, "--yes")

    assert refused.code == unasked.code == 1
    assert "add --yes" in unasked.err
    assert "model attest" in refused.err
    assert attested.code == 0
    assert "float model 000000000000" in attested.out
    assert "top1 89.0 %, float 90.0 %: accepted" in attested.out
    creates(operator, variants, 1)


def test_a_key_of_no_role_vouches_for_nothing(
    operator: Operator, variants: Path
) -> None:
    (variants / "cam" / "provenance.json").unlink()
    make_key(operator.path, "stranger", "ed25519", None, CLOCK.now())

    said = operator.types(
        "model", "attest", variants, "--key", operator.path / "stranger.pem", "--yes"
    )

    assert said.code == 1
    assert "does not sign provenance in this fleet" in said.err
    assert not (variants / "cam" / "provenance.json").exists()


def test_what_was_changed_after_it_was_measured_is_not_vouched_for(
    operator: Operator, variants: Path
) -> None:
    (variants / "cam" / "model.onnx").write_bytes(model_bytes(3.0))

    said = operator.types("model", "attest", variants)

    assert said.code == 1
    assert "changed afterwards" in said.err


def test_a_release_is_shown_with_its_chain_to_the_root(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)

    told = operator.types("release", "show", "m@1")
    shown = operator.types("release", "show", "m@1", "--json").value

    assert told.code == 0
    assert "WRONG" not in told.out
    links = shown["variants"]["cam"]["links"]
    assert [link["link"] for link in links] == [
        "release",
        "artifact",
        "provenance",
        "class-cam",
        "targets",
        "snapshot",
        "timestamp",
        "root",
    ]
    assert all(link["verified"] for link in links)
    assert links[2]["from"]["float model"] == "0" * 64


def test_a_part_that_was_changed_on_disk_is_told_as_wrong(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    index = Catalog(operator.home).release("m@1").variants["cam"].index
    file = operator.home.parts / index.part("model.onnx").sha256
    file.write_bytes(b"something else")

    said = operator.types("release", "show", "m@1")

    assert said.code == 3
    assert "WRONG" in said.out
    assert "model.onnx is" in said.out


def test_revoking_tells_how_many_devices_run_it_and_what_to_do(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    settle(operator.home, CLOCK, "m@1")

    said = operator.types("release", "revoke", "m@1", "--reason", "wrong labels")
    again = operator.types("release", "revoke", "m@1", "--reason", "wrong labels")

    assert said.code == 0
    assert "In force: m@1 is revoked (cam)." in said.out
    assert "1 devices run it" in said.out
    assert "Nothing to do: m@1 was revoked already." in again.out
    assert operator.types("release", "list", "--json").rows == []
    listed = operator.types("release", "list", "--all", "--json").rows
    assert listed[0]["revoked"] == {"cam": "wrong labels"}
    refused = operator.types("rollout", "create", "m@1", "--selector", "all")
    assert refused.code == 1
    assert "release_revoked" in refused.err


def test_going_back_is_permitted_and_forbidden(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)

    permit = ("release", "permit-downgrade", "m@1", "--reason", "a trial")
    assert operator.types(*permit).code == 0
    permitted = operator.types("release", "show", "m@1", "--json").value["downgrade"]
    assert operator.types("release", "forbid-downgrade", "m@1").code == 0
    forbidden = operator.types("release", "show", "m@1", "--json").value["downgrade"]

    assert permitted == {"cam": "a trial"}
    assert forbidden == {}


def test_what_a_device_runs_is_explained_down_to_the_root(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    settle(operator.home, CLOCK, "m@1")

    told = operator.types("explain", "one")
    value = operator.types("explain", "one", "--json").value

    assert told.code == 0
    assert "runs m@1" in told.out
    assert "why: a test" in told.out
    assert value["verified"]
    names = [link["link"] for link in value["links"]]
    assert names[:3] == ["reports", "assignment", "director"]
    assert names[3:6] == ["release", "artifact", "provenance"]
    assert names[-1] == "root"


def test_a_device_that_runs_what_was_revoked_is_told_as_wrong(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    settle(operator.home, CLOCK, "m@1")
    operator.types("release", "revoke", "m@1", "--reason", "wrong labels")

    said = operator.types("explain", "one")

    assert said.code == 3
    assert "m@1 was revoked: wrong labels" in said.out


def test_a_device_that_runs_other_than_assigned_is_told_as_wrong(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    creates(operator, variants, 2)
    settle(operator.home, CLOCK, "m@1")
    other = Catalog(operator.home).release("m@2").variants["cam"].artifact
    slot = Slot(digest=other, release="m@2")
    report_other(operator.home, CLOCK, "one", slot)

    value = operator.types("explain", "one", "--json").value

    assert value["links"][0]["wrong"] == "it is assigned m@1"


def test_an_assignment_of_another_director_is_told_as_wrong(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    settle(operator.home, CLOCK, "m@1")
    forge_assignment(operator.home, "one")

    said = operator.types("explain", "one")

    assert said.code == 3
    assert "signed by 0/1 keys" in said.out


def test_a_device_that_has_said_nothing_yet_is_no_fault(operator: Operator) -> None:
    operator.enrols("new", "cam")

    said = operator.types("explain", "new")

    assert said.code == 0
    assert "nothing yet" in said.out


def test_an_unknown_device_or_release_ends_with_3(operator: Operator) -> None:
    assert operator.types("explain", "nobody").code == 3
    assert operator.types("release", "show", "m@9").code == 3


def test_a_variant_is_exported_with_a_signature_for_others(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    make_key(operator.path, "public", "p256", None, CLOCK.now())
    export = (
        "release", "export-signature", "m@1", "--class", "cam",
        "--key", operator.path / "public.pem", "--out", operator.path / "out",
    )  # fmt: skip

    said = operator.types(*export)
    again = operator.types(*export)

    assert said.code == 0
    files = {it.name for it in (operator.path / "out" / "model").iterdir()}
    assert files == {"model.onnx", "golden.npz", "evaluation.json", "provenance.json"}
    assert (operator.path / "out" / "model.sig").is_file()
    assert again.code == 1
    assert "exists already" in again.err
    public = operator.path / "out" / "model.pub"
    read = ["openssl", "pkey", "-pubin", "-noout", "-in", str(public)]
    assert subprocess.run(read, check=False).returncode == 0


def test_a_key_that_the_tool_does_not_know_is_refused(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    make_key(operator.path, "edwards", "ed25519", None, CLOCK.now())

    said = operator.types(
        "release", "export-signature", "m@1", "--class", "cam",
        "--key", operator.path / "edwards.pem", "--out", operator.path / "out",
    )  # fmt: skip

    assert said.code == 1
    assert "P-256" in said.err
    assert not (operator.path / "out").exists()


def test_a_test_home_vouches_by_itself_where_its_key_is(operator: Operator) -> None:
    vouch = find_attester(None, None, operator.home.path)
    (operator.home.keys / "provenance.pem").unlink()

    assert vouch is not None
    assert find_attester(None, None, operator.home.path) is None
    assert find_attester(None, None, operator.path / "nowhere") is None


def test_what_a_test_home_vouches_for_by_itself_is_recorded(
    operator: Operator, variants: Path
) -> None:
    record = (variants / "cam" / "evaluation.json").read_bytes()
    vouch = find_attester(None, None, operator.home.path)
    assert vouch is not None
    before = len(operator.entries())

    vouch(Evaluation.decode(record, limit=1 << 20), record)

    begun, done = operator.entries()[before:]
    assert begun["act"] == done["act"] == "model.attest"
    assert (begun["outcome"], done["outcome"]) == ("begun", "done")
    assert done["subject"] == "variant:m/cam"


def test_a_test_home_vouches_for_those_only_who_may_attest(operator: Operator) -> None:
    ada = operator.hires("ada", "admin")
    operator.becomes(ada)
    operator.becomes(operator.hires("vic", "viewer"))

    with pytest.raises(RejectedError) as refusal:
        find_attester(None, None, operator.home.path)

    last = operator.entries()[-1]
    assert refusal.value.code is Code.NOT_PERMITTED
    assert (last["act"], last["outcome"]) == ("model.attest", "refused")


def test_a_home_in_earnest_vouches_for_nothing_unasked(operator: Operator) -> None:
    settings = operator.home.settings_file
    text = settings.read_text("utf-8").replace("test = true", "test = false")
    settings.write_text(text, "utf-8")

    assert find_attester(None, None, operator.home.path) is None


def test_a_key_that_is_named_vouches(operator: Operator, variants: Path) -> None:
    make_key(operator.path, "builder", "ed25519", None, CLOCK.now())
    vouch = find_attester(operator.path / "builder.pem", None, operator.path)
    record = (variants / "cam" / "evaluation.json").read_bytes()
    assert vouch is not None

    envelope = vouch(Evaluation.decode(record, limit=1 << 20), record)

    half = PublicHalf.read(operator.path / "builder.pub")
    assert signed_by(envelope) == (half.public().keyid,)


def test_a_report_of_what_was_never_assigned_to_a_device_counts_for_nothing(
    operator: Operator, variants: Path
) -> None:
    creates(operator, variants, 1)
    creates(operator, write_variants(
        operator.path / "v2", name="m", classes=("cam",), home=operator.home
    ), 2)  # fmt: skip
    settle(operator.home, CLOCK, "m@2")
    variants_of = {
        it.id: it.variants["cam"].artifact for it in Catalog(operator.home).releases()
    }
    with operator.store() as store, store.read() as records:
        before = held_artifacts(records)
    report_other(
        operator.home, CLOCK, "one", Slot(digest=variants_of["m@1"], release="m@1")
    )

    with operator.store() as store, store.read() as records:
        after = held_artifacts(records)

    assert before["cam"] == {variants_of["m@2"]}
    assert after == before
