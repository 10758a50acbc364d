"""Releases: what is signed, what is refused, and that nothing half-done stays."""

import os
import re
import signal
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from quarterdeck_controller.home import Home
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.attest import attest, examine
from quarterdeck_controller.release.catalog import Catalog, Release
from quarterdeck_controller.release.gate import PARTS
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import write_durable
from quarterdeck_shared.errors import RejectedError, TransientError
from tests.support.releases import (
    CLASSES,
    ManualClock,
    copied_home,
    evaluation,
    golden_bytes,
    load,
    model_bytes,
    publish,
    vouchers,
    write_variants,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return copied_home(tmp_path / "home")


@pytest.fixture
def variants(home: Home, tmp_path: Path) -> Path:
    return write_variants(tmp_path / "variants", home=home)


def release(
    home: Home, variants: Path, version: int = 1, override: str | None = None
) -> Release:
    return create_release(
        home,
        variants,
        "model",
        version,
        ManualClock(),
        trial=trusting,
        override=override,
    )


def files(home: Home) -> dict[str, bytes]:
    """Return all that a release may change."""
    return {
        str(file.relative_to(home.path)): file.read_bytes()
        for folder in (home.repository, home.parts)
        for file in folder.rglob("*")
        if file.is_file() and file.name != "lock"
    }


def versions(home: Home) -> dict[str, int]:
    chain = Repository(home, ManualClock()).chain()
    return {role: signed.version for role, signed in chain.signed().items()}


def test_a_release_lists_every_class_and_its_chunks_give_back_the_files(
    home: Home, variants: Path
) -> None:
    made = release(home, variants)

    assert set(made.variants) == set(CLASSES)
    catalog = Catalog(home)
    for name, variant in made.variants.items():
        assert catalog.device_class(variant.artifact) == name
        chunks = [
            catalog.read_chunk(variant.artifact, number)
            for number in range(variant.index.chunk_count)
        ]
        whole = b"".join((variants / name / part).read_bytes() for part in PARTS)
        assert b"".join(chunk or b"" for chunk in chunks) == whole
        assert catalog.read_chunk(variant.artifact, len(chunks)) is None
        assert catalog.read_chunk(variant.artifact, -1) is None


def test_the_same_content_again_is_the_same_release(home: Home, variants: Path) -> None:
    first = release(home, variants)
    before = files(home)

    assert release(home, variants) == first
    assert files(home) == before


def test_other_content_under_the_same_version_is_refused(
    home: Home, variants: Path
) -> None:
    release(home, variants)
    before = files(home)
    write_variants(variants, weight=2.0, home=home)

    with pytest.raises(RejectedError, match="other content") as refusal:
        release(home, variants)

    assert refusal.value.code is Code.CONFLICT
    assert files(home) == before


@pytest.mark.parametrize(
    ("first", "second"), [(("cam",), CLASSES), (CLASSES, ("cam",))]
)
def test_a_release_neither_gains_nor_loses_a_class(
    home: Home, variants: Path, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    create_release(
        home, variants, "model", 1, ManualClock(), classes=first, trial=trusting
    )

    with pytest.raises(RejectedError, match="never changes") as refusal:
        create_release(
            home, variants, "model", 1, ManualClock(), classes=second, trial=trusting
        )

    assert refusal.value.code is Code.CONFLICT


def test_the_counter_rises_with_every_release_and_unchanged_parts_are_kept_once(
    home: Home, variants: Path
) -> None:
    first = release(home, variants, 1)
    parts = len(list(home.parts.iterdir()))

    second = release(home, variants, 2)

    assert (first.counter, second.counter) == (1, 2)
    assert len(list(home.parts.iterdir())) == parts
    assert [found.id for found in Catalog(home).releases()] == ["model@2", "model@1"]


def test_a_catalog_notices_what_another_process_released(
    home: Home, variants: Path
) -> None:
    catalog = Catalog(home)
    assert catalog.releases() == ()

    made = release(home, variants)

    assert catalog.releases() == (made,)
    assert catalog.release("model@1") == made


def test_a_refused_variant_needs_a_reason_which_is_signed_with_it(
    home: Home, tmp_path: Path
) -> None:
    variants = write_variants(tmp_path / "refused", decision="refused", home=home)
    with pytest.raises(RejectedError, match="slow") as refusal:
        release(home, variants)
    assert refusal.value.code is Code.BUDGET_MISSED

    write_variants(variants, classes=["cam"], home=home)
    made = release(home, variants, override="a test of the gate")

    assert made.variants["cam"].override == ""
    assert made.variants["gateway"].override == "a test of the gate"
    assert made.override == "a test of the gate"
    assert Catalog(home).release("model@1").override == "a test of the gate"
    with pytest.raises(RejectedError):
        release(home, variants, 2, override="  ")


def external(model: bytes) -> bytes:
    proto = load(model)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return bytes(proto.SerializeToString())


def external_in_a_constant_of_a_branch(model: bytes) -> bytes:
    proto = load(model)
    value = onnx.TensorProto(name="hidden", data_type=1, dims=[1])
    value.external_data.add(key="location", value="../secret")
    constant = helper.make_node("Constant", [], ["c"], value=value)
    branch = helper.make_graph([constant], "branch", [], [])
    proto.graph.node.append(
        helper.make_node("If", ["b"], ["d"], then_branch=branch, else_branch=branch)
    )
    return bytes(proto.SerializeToString())


def custom(model: bytes) -> bytes:
    proto = load(model)
    proto.graph.node.append(helper.make_node("Evil", ["y"], ["z"], domain="my.ops"))
    return bytes(proto.SerializeToString())


def vouch_again(home: Home, folder: Path) -> None:
    """Have the record and the provenance speak of the files as they are now."""
    measured = {
        name: (folder / name).read_bytes() for name in ("model.onnx", "golden.npz")
    }
    record = evaluation("model", folder.name, files=measured)
    (folder / "evaluation.json").write_bytes(record.encode())
    attest(examine(folder), vouchers(home))


WRONG = {
    "no model": ("model.onnx", None, Code.NOT_FOUND, "missing"),
    "no golden": ("golden.npz", None, Code.NOT_FOUND, "missing"),
    "no evaluation": ("evaluation.json", None, Code.NOT_FOUND, "missing"),
    "empty model": ("model.onnx", b"", Code.DATA_INVALID, "empty"),
    "a text": ("model.onnx", b"hello, world", Code.GATE_FAILED, "ONNX"),
    "cut model": ("model.onnx", model_bytes()[:3000], Code.GATE_FAILED, "ONNX"),
    "external": ("model.onnx", external(model_bytes()), Code.GATE_FAILED, "another"),
    "hidden external": (
        "model.onnx",
        external_in_a_constant_of_a_branch(model_bytes()),
        Code.GATE_FAILED,
        "hidden",
    ),
    "custom": ("model.onnx", custom(model_bytes()), Code.GATE_FAILED, "my.ops.Evil"),
    "another model": ("model.onnx", model_bytes(2.0), Code.CONFLICT, "changed after"),
    "other vectors": (
        "golden.npz",
        golden_bytes(input__x=np.zeros((8, 64), np.float32)),
        Code.CONFLICT,
        "changed after",
    ),
    "no npz": ("golden.npz", b"PK\x03\x04", Code.GATE_FAILED, "npz"),
    "pickle": (
        "golden.npz",
        golden_bytes(input__x=np.array([{}])),
        Code.GATE_FAILED,
        "npz",
    ),
    "other input": (
        "golden.npz",
        golden_bytes(input__x=None, input__z=np.ones((8, 64), np.float32)),
        Code.GATE_FAILED,
        "input:z",
    ),
    "other output": (
        "golden.npz",
        golden_bytes(expected__y=None, expected__q=np.ones((8, 64))),
        Code.GATE_FAILED,
        "expected:q",
    ),
    "no expected": (
        "golden.npz",
        golden_bytes(expected__y=None),
        Code.GATE_FAILED,
        "nothing",
    ),
    "too few": ("golden.npz", golden_bytes(7), Code.GATE_FAILED, "8 vectors"),
    "not finite": (
        "golden.npz",
        golden_bytes(expected__y=np.full((8, 64), np.nan, np.float32)),
        Code.GATE_FAILED,
        "finite",
    ),
    "other type": (
        "golden.npz",
        golden_bytes(input__x=np.ones((8, 64), np.float64)),
        Code.GATE_FAILED,
        "float64",
    ),
    "no json": ("evaluation.json", b"{", Code.MALFORMED, "Evaluation"),
    "endless json": ("evaluation.json", b" " * (2 << 20), Code.TOO_LARGE, "allowed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_by_name_and_leaves_nothing(
    home: Home, variants: Path, case: str
) -> None:
    part, data, code, told = WRONG[case]
    file = variants / "gateway" / part
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    if code is Code.GATE_FAILED:
        vouch_again(home, file.parent)
    before = files(home)

    with pytest.raises(RejectedError, match=told) as refusal:
        release(home, variants)

    assert refusal.value.code is code
    assert refusal.value.detail.startswith("gateway: ")
    assert files(home) == before


def test_a_class_without_a_signing_role_is_refused(home: Home, variants: Path) -> None:
    write_variants(variants, classes=("toaster",), home=home)

    with pytest.raises(RejectedError, match=r"toaster.*cam, gateway") as refusal:
        release(home, variants)

    assert refusal.value.code is Code.NOT_FOUND


def test_a_variant_in_the_folder_of_another_class_is_refused(
    home: Home, variants: Path
) -> None:
    (variants / "cam").rename(variants / "x")
    (variants / "gateway").rename(variants / "cam")

    with pytest.raises(RejectedError, match="for gateway, not of model for cam"):
        create_release(home, variants, "model", 1, ManualClock(), classes=["cam"])


def test_an_empty_or_absent_folder_is_refused(home: Home, tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(RejectedError) as refusal:
            release(home, folder)
        assert refusal.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("key", ["absent", "foreign"])
def test_where_a_class_key_is_elsewhere_the_release_waits_for_it(
    home: Home, variants: Path, key: str
) -> None:
    signer = (home.keys / "class-gateway.pem").read_bytes()
    (home.keys / "class-gateway.pem").unlink()
    if key == "foreign":
        foreign = (home.keys / "targets.pem").read_bytes()
        (home.keys / "class-gateway.pem").write_bytes(foreign)
    before = files(home)

    with pytest.raises(RejectedError, match=r"model@1 waits") as refusal:
        release(home, variants)

    assert refusal.value.code is Code.SIGNATURES_MISSING
    assert files(home) == before
    (home.keys / "class-gateway.pem").write_bytes(signer)
    assert sign_here(home).variants.keys() == set(CLASSES)


def sign_here(home: Home) -> Release:
    """Sign the only open request with the keys that are in the home."""
    repository = Repository(home, ManualClock())
    (request,) = repository.requests()
    with repository.exclusive():
        signatures = {
            role: [signer.sign(request.metadata[role].signed_bytes)]
            for role in request.roles
            for signer in repository.signers(role)
        }
        repository.accept(request, signatures)
    return Catalog(home).release("model@1")


def test_a_release_that_waits_keeps_its_counter_to_itself(
    home: Home, tmp_path: Path
) -> None:
    first = write_variants(tmp_path / "first", classes=("gateway",), home=home)
    second = write_variants(tmp_path / "second", classes=("cam",), home=home)
    key = home.keys / "class-gateway.pem"
    key.rename(tmp_path / "gateway.pem")
    with pytest.raises(RejectedError, match="waits"):
        release(home, first)

    made = release(home, second, 2)

    assert made.counter == 2


@pytest.mark.parametrize("survived", range(4))
def test_a_publication_interrupted_after_any_write_leaves_the_old_state_in_force(
    home: Home, variants: Path, survived: int
) -> None:
    old, left = versions(home), [survived]

    def write(path: Path, data: bytes) -> None:
        if not left[0]:
            raise OSError("the power went away")
        left[0] -= 1
        write_durable(path, data)

    interrupted = Repository(home, ManualClock(), write=write)
    with pytest.raises(RejectedError, match="power"):
        publish(interrupted)

    assert versions(home) == old
    assert Catalog(home).releases() == ()
    assert release(home, variants).counter == 1


CHILD = """
import os, signal, sys
from pathlib import Path
from quarterdeck_controller.home import Home
from quarterdeck_controller.repository import repository
from quarterdeck_shared.durable import write_durable
from tests.support.releases import ManualClock, publish
left = [int(sys.argv[2])]
def write(path, data):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write_durable(path, data)
home = Home.open(Path(sys.argv[1]))
changing = repository.Repository(home, ManualClock(), write=write)
publish(changing)
"""


@pytest.mark.parametrize(("survived", "published"), [(1, False), (3, False), (4, True)])
def test_a_controller_killed_while_publishing_has_published_all_or_nothing(
    home: Home, variants: Path, survived: int, *, published: bool
) -> None:
    arguments = [str(home.path), str(survived)]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=Path(__file__).parents[3],
        check=False,
        timeout=30,
    )

    assert child.returncode == (0 if published else -signal.SIGKILL)
    assert bool(Catalog(home).releases()) is published
    assert release(home, variants, 2).counter == (2 if published else 1)


def test_two_processes_do_not_publish_at_once(home: Home, variants: Path) -> None:
    repository = Repository(home, ManualClock())
    with (
        repository.exclusive(),
        pytest.raises(TransientError, match="another process") as refusal,
        Repository(home, ManualClock()).exclusive(wait_s=0.1),
    ):
        pass

    assert refusal.value.code is Code.CONFLICT
    assert release(home, variants).counter == 1


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_a_foreign_key_signs_nothing(home: Home, variants: Path, role: str) -> None:
    (home.keys / f"{role}.pem").write_bytes((home.keys / "targets.pem").read_bytes())
    before = files(home)

    with pytest.raises(RejectedError, match=f"{role} is signed by") as refusal:
        release(home, variants)

    assert refusal.value.code is Code.HOME_INVALID
    assert files(home) == before


def test_a_director_whom_no_device_knows_signs_nothing(home: Home) -> None:
    key = (home.keys / "targets.pem").read_bytes()
    (home.keys / "director.pem").write_bytes(key)

    with pytest.raises(RejectedError, match="director is signed by"):
        Director(home)


def test_only_files_of_the_repository_are_served(home: Home) -> None:
    repository = Repository(home, ManualClock())
    (home.repository / "secret.json").write_text("{}")

    served = {
        name: repository.read(name) is not None
        for name in (
            "timestamp.json",
            "1.root.json",
            "1.class-cam.json",
            "2.root.json",
            "secret.json",
            "lock",
            "../settings.toml",
            "../keys/director.pem",
            "/etc/passwd",
            "targets/../1.root.json",
            "1.root.json/../../settings.toml",
            "0.root.json",
            "",
            "timestamp.json\n",
        )
    }

    assert [name for name, found in served.items() if found] == [
        "timestamp.json",
        "1.root.json",
        "1.class-cam.json",
    ]


def test_signatures_are_renewed_before_half_of_their_validity_is_over(
    home: Home, clock: ManualClock
) -> None:
    repository = Repository(home, clock)
    half = timedelta(hours=12)

    assert repository.renew(clock.now() + half / 2).renewed == ()
    assert repository.renew(clock.now() + half).renewed == ("timestamp",)
    assert versions(home)["timestamp"] == 2
    assert versions(home)["snapshot"] == 1


def test_after_a_year_away_everything_is_signed_again(
    home: Home, clock: ManualClock, variants: Path
) -> None:
    release(home, variants)
    clock.forward(days=400)

    renewal = Repository(home, clock).renew(clock.now())

    assert not renewal.waiting
    chain = Repository(home, clock).chain()
    assert all(s.expires > clock.now() for s in chain.signed().values())
    assert Catalog(home).release("model@1").counter == 1


def test_a_role_whose_key_is_elsewhere_waits_and_the_others_are_renewed(
    home: Home, clock: ManualClock
) -> None:
    (home.keys / "targets.pem").unlink()
    (home.keys / "root-1.pem").unlink()
    (home.keys / "root-2.pem").unlink()
    clock.forward(days=200)

    renewal = Repository(home, clock).renew(clock.now())

    assert set(renewal.waiting) == {"root", "targets"}
    assert {"timestamp", "snapshot", "class-cam"} <= set(renewal.renewed)


@pytest.mark.parametrize(
    "name", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.class-cam.json"]
)
@pytest.mark.parametrize("damage", ["emptied", "forged", "missing"])
def test_a_damaged_repository_is_named_and_never_signed_on_top_of(
    home: Home, variants: Path, name: str, damage: str
) -> None:
    file = home.repository / name
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        forged = re.sub(rb'"expires":"\d{4}', b'"expires":"2099', data)
        file.write_bytes(b"" if damage == "emptied" else forged)

    with pytest.raises(RejectedError) as refusal:
        release(home, variants)

    assert refusal.value.code is Code.HOME_INVALID


def test_signing_keys_are_readable_by_the_owner_only(home: Home) -> None:
    modes = {stat.S_IMODE(key.stat().st_mode) for key in home.keys.iterdir()}

    assert modes == {0o600}
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    assert os.access(home.keys / "director.pem", os.R_OK)
