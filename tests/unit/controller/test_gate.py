"""The gate before a class key signs: what it lets through, and what it refuses."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import TargetFile, Targets

from quarterdeck_controller.home import Home
from quarterdeck_controller.optimize.profile import Gate
from quarterdeck_controller.release.assemble import create_release, propose_release
from quarterdeck_controller.release.attest import attest, examine
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.release.gate import PARTS, Inspector, allowed_by
from quarterdeck_controller.release.listings import (
    index_file,
    listing_of,
    target_file,
)
from quarterdeck_controller.release.provenance import seal
from quarterdeck_controller.release.revocation import REVOKED_FIELD, revoked_in
from quarterdeck_controller.release.screening import STRICT
from quarterdeck_controller.release.standing import revoke_release
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Index
from quarterdeck_shared.listing import Listing
from tests.support import hostile_models as hostile
from tests.support.releases import (
    ALLOWING_PROFILE,
    NOW,
    ManualClock,
    copied_home,
    evaluation,
    golden_bytes,
    vouchers,
    write_variants,
)

CLASS, ROLE = "cam", "class-cam"


class Asked:
    """A release that waits for cam's key, as whoever holds the key sees it."""

    def __init__(self, folder: Path, *, weight: float = 1 / 64) -> None:
        self.home = copied_home(folder / "home", released=True)
        (self.home.keys / f"{ROLE}.pem").unlink()
        self.repository = Repository(self.home, ManualClock())
        variants = write_variants(
            folder / "v2", classes=(CLASS,), weight=weight, home=self.home
        )
        proposal = propose_release(
            self.home, variants, "model", 2, ManualClock(), trial=trusting
        )
        request = proposal.request
        assert request is not None
        self.files = {
            it.name: request.attachment(it.name).read_bytes()
            for it in request.terms.attachments
        }
        after = request.metadata[ROLE].signed
        assert isinstance(after, Targets)
        self.after = copy.deepcopy(after)

    @property
    def path(self) -> str:
        return "classes/cam/model-2.idx"

    def index(self) -> Index:
        return Index.decode(self.files[index_file(self.after.targets[self.path])])

    def list_anew(self, index: Index) -> None:
        """List another index in place of the new one."""
        file = target_file(index, listing_of(self.after.targets[self.path]))
        self.after.targets[file.path] = file
        self.files[index_file(file)] = index.encode()

    def examined(self, gate: Gate = STRICT) -> tuple[str, ...]:
        chain = self.repository.chain()
        inspector = Inspector(chain.targets, allowed=lambda _: gate)
        before = chain.delegated[ROLE]
        return inspector.role(CLASS, before, self.after, self.files.get).lines()


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_what_a_signer_is_told_says_what_was_found(asked: Asked) -> None:
    told = "\n".join(asked.examined())

    assert "model@2 for cam: dynamic" in told
    assert "reproduces 8 golden vectors" in told
    assert "made by urn:quarterdeck:optimizer from the float model 000000000000" in told
    assert "score 89.0 %, float 90.0 %: accepted" in told
    assert "lets devices go back to classes/cam/model-1.idx: the newest before" in told


def test_a_model_that_answers_wrongly_is_refused_where_the_key_is(
    tmp_path: Path,
) -> None:
    asked = Asked(tmp_path, weight=1.0)

    with pytest.raises(RejectedError, match="does not reproduce") as refusal:
        asked.examined()

    assert refusal.value.code is Code.GATE_FAILED
    assert refusal.value.detail.startswith(asked.path)


def change_bytes(asked: Asked) -> None:
    asked.files = {name: data[:-1] + b"x" for name, data in asked.files.items()}


def lose_a_part(asked: Asked) -> None:
    del asked.files[f"parts/{asked.index().part('golden.npz').sha256}"]


def leave_provenance_out(asked: Asked) -> None:
    index = asked.index()
    parts = tuple(part for part in index.parts if part.name != "provenance.json")
    asked.list_anew(index.model_copy(update={"parts": parts}))


def list_for_another_class(asked: Asked) -> None:
    index = asked.index().model_copy(update={"device_class": "gateway"})
    file = target_file(index, listing_of(asked.after.targets[asked.path]))
    asked.after.targets[file.path] = file
    asked.files[index_file(file)] = index.encode()


def lower_the_counter(asked: Asked) -> None:
    file = asked.after.targets[asked.path]
    listing = listing_of(file).model_copy(update={"release": 1})
    index = asked.index().model_copy(update={"release": 1})
    asked.after.targets[asked.path] = target_file(index, listing)
    asked.files[index_file(asked.after.targets[asked.path])] = index.encode()


def lie_about_the_counter(asked: Asked) -> None:
    custom = asked.after.targets[asked.path].unrecognized_fields["custom"]
    custom["release"] = 99


def change_what_was_listed(asked: Asked) -> None:
    asked.after.targets["classes/cam/model-1.idx"].hashes["sha256"] = "a" * 64


def spoil_the_listing(asked: Asked) -> None:
    asked.after.targets[asked.path].unrecognized_fields["custom"] = {"v": 9}


def loosen_the_tolerance(asked: Asked) -> None:
    golden = asked.index().golden.model_copy(update={"max_error": 99.0})
    asked.list_anew(asked.index().model_copy(update={"golden": golden}))


def list_another_evaluation(asked: Asked) -> None:
    index = asked.index()
    parts = tuple(
        part.model_copy(update={"sha256": "b" * 64})
        if part.name == "evaluation.json"
        else part
        for part in index.parts
    )
    asked.list_anew(index.model_copy(update={"parts": parts}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_bytes, "missing or is not what is listed"),
        (lose_a_part, r"golden\.npz is missing"),
        (leave_provenance_out, r"lists no provenance\.json"),
        (list_for_another_class, "its index is of model 2 for gateway"),
        (lower_the_counter, "counter 1 does not rise: the class has model with 1"),
        (lie_about_the_counter, "release 99 is listed, its index says 2"),
        (change_what_was_listed, "was listed with other bytes"),
        (spoil_the_listing, "is not valid"),
        (loosen_the_tolerance, "its index says golden .*99"),
        (list_another_evaluation, r"evaluation\.json is missing or is not"),
    ],
)
def test_a_change_that_does_not_hold_together_is_refused(
    asked: Asked, change: Callable[[Asked], None], told: str
) -> None:
    change(asked)

    with pytest.raises(RejectedError, match=told) as refusal:
        asked.examined()

    assert refusal.value.code is Code.GATE_FAILED


def test_a_class_role_that_delegates_is_refused(asked: Asked) -> None:
    asked.after.delegations = asked.repository.chain().targets.delegations

    with pytest.raises(RejectedError, match="may not delegate"):
        asked.examined()


def test_the_limits_of_the_class_count(asked: Asked) -> None:
    with pytest.raises(RejectedError, match="100 are allowed"):
        asked.examined(Gate(bytes=100))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return copied_home(tmp_path / "home")


def written(home: Home, folder: Path, model: bytes) -> Path:
    """Write a variant whose record and provenance speak of ``model``."""
    write_variants(folder, classes=(CLASS,))
    (folder / CLASS / "model.onnx").write_bytes(model)
    files = {"model.onnx": model, "golden.npz": golden_bytes()}
    record = evaluation("model", CLASS, files=files)
    (folder / CLASS / "evaluation.json").write_bytes(record.encode())
    attest(examine(folder / CLASS), vouchers(home))
    return folder


def test_a_hostile_model_that_is_vouched_for_is_refused_and_never_signed(
    home: Home, tmp_path: Path
) -> None:
    variants = written(home, tmp_path / "v", hostile.endless_loop(tmp_path))
    before = Repository(home, ManualClock()).timestamp()

    with pytest.raises(RejectedError, match="Loop runs subgraphs") as refusal:
        create_release(home, variants, "model", 1, ManualClock())

    assert refusal.value.code is Code.GATE_FAILED
    assert Repository(home, ManualClock()).timestamp() == before
    assert not home.parts.exists() or not list(home.parts.iterdir())


def test_a_profile_of_ones_own_may_allow_more(home: Home, tmp_path: Path) -> None:
    profile = tmp_path / "cam.toml"
    profile.write_text(ALLOWING_PROFILE, "utf-8")
    variants = written(home, tmp_path / "v", hostile.one_if(tmp_path))
    with pytest.raises(RejectedError, match="If runs subgraphs"):
        create_release(home, variants, "model", 1, ManualClock())

    proposal = propose_release(
        home, variants, "model", 1, ManualClock(), allowed=allowed_by([profile])
    )

    assert proposal.release is not None


def test_a_variant_that_a_stranger_vouches_for_is_refused(
    home: Home, tmp_path: Path
) -> None:
    variants = write_variants(tmp_path / "v", classes=(CLASS,))
    attest(examine(variants / CLASS), [CryptoSigner.generate_ed25519()])

    with pytest.raises(RejectedError, match="0/1 keys") as refusal:
        create_release(home, variants, "model", 1, ManualClock())

    assert refusal.value.code is Code.PROVENANCE_INVALID


def test_a_variant_that_nobody_vouches_for_names_the_remedy(
    home: Home, tmp_path: Path
) -> None:
    variants = write_variants(tmp_path / "v", classes=(CLASS,))

    with pytest.raises(RejectedError, match="quarterdeck model attest") as refusal:
        create_release(home, variants, "model", 1, ManualClock())

    assert refusal.value.code is Code.PROVENANCE_INVALID


def test_provenance_of_another_variant_is_refused(home: Home, tmp_path: Path) -> None:
    mine = write_variants(tmp_path / "mine", classes=(CLASS,), home=home)
    other = written(home, tmp_path / "other", hostile.identity())
    theirs = (other / CLASS / "provenance.json").read_bytes()
    (mine / CLASS / "provenance.json").write_bytes(theirs)

    with pytest.raises(RejectedError, match=r"vouches for model\.onnx") as refusal:
        create_release(home, mine, "model", 1, ManualClock())

    assert refusal.value.code is Code.PROVENANCE_INVALID


def vouch_otherwise(home: Home, folder: Path, **figures: object) -> None:
    """Have a key of the role vouch for the variant, with figures of its own."""
    told = examine(folder).statement
    predicate = told.predicate
    build = predicate.build_definition
    lie = build.internal_parameters.model_copy(update=figures)
    build = build.model_copy(update={"internal_parameters": lie})
    predicate = predicate.model_copy(update={"build_definition": build})
    statement = told.model_copy(update={"predicate": predicate})
    (folder / "provenance.json").write_bytes(seal(statement, vouchers(home)))


def test_provenance_that_says_other_than_the_evaluation_is_refused(
    home: Home, tmp_path: Path
) -> None:
    variants = write_variants(tmp_path / "v", classes=(CLASS,))
    vouch_otherwise(home, variants / CLASS, score=0.99)

    with pytest.raises(RejectedError, match=r"says score 0\.99, .* says 0\.89"):
        create_release(home, variants, "model", 1, ManualClock())


def no_files(name: str) -> bytes | None:
    raise AssertionError(f"{name} was asked for")


def forget_the_revocation(signed: Targets) -> None:
    del signed.unrecognized_fields[REVOKED_FIELD]


def list_it_again(signed: Targets) -> None:
    (record,) = revoked_in(signed)
    target = record.target
    listing = Listing(release=1, created=NOW)
    signed.targets[target.path] = TargetFile(
        target.length,
        {"sha256": target.sha256},
        target.path,
        unrecognized_fields={"custom": listing.model_dump(mode="json")},
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (forget_the_revocation, r"forgets that classes/cam/model-1\.idx was revoked"),
        (list_it_again, r"classes/cam/model-1\.idx was revoked: broken"),
    ],
)
def test_what_was_revoked_stays_so(
    tmp_path: Path, change: Callable[[Targets], None], told: str
) -> None:
    home = copied_home(tmp_path / "home", released=True)
    revoke_release(home, "model@1", "broken", ManualClock())
    chain = Repository(home, ManualClock()).chain()
    after = copy.deepcopy(chain.delegated[ROLE])
    change(after)

    with pytest.raises(RejectedError, match=told) as refusal:
        Inspector(chain.targets).role(CLASS, chain.delegated[ROLE], after, no_files)

    assert refusal.value.code is Code.GATE_FAILED


def test_a_revocation_is_told_with_its_reason(tmp_path: Path) -> None:
    home = copied_home(tmp_path / "home", released=True)
    before = Repository(home, ManualClock()).chain()
    revoke_release(home, "model@1", "broken", ManualClock())
    after = Repository(home, ManualClock()).chain().delegated[ROLE]

    examined = Inspector(before.targets).role(
        CLASS, before.delegated[ROLE], after, no_files
    )

    assert examined.lines() == ("revokes classes/cam/model-1.idx: broken",)


def test_a_refused_variant_without_a_signed_reason_is_refused(tmp_path: Path) -> None:
    home = copied_home(tmp_path / "home")
    variants = write_variants(
        tmp_path / "v", classes=(CLASS,), decision="refused", home=home
    )
    why = "the customer insists"
    made = create_release(home, variants, "model", 1, ManualClock(), override=why)
    variant, catalog = made.variants[CLASS], Catalog(home)
    files = {name: catalog.read_part(variant, name) or b"" for name in PARTS}
    inspector = Inspector(Repository(home, ManualClock()).chain().targets)
    silent = variant.listing.model_copy(update={"override": ""})

    told = inspector.variant(variant.index, variant.listing, files).lines()
    with pytest.raises(RejectedError, match="nobody says why") as refusal:
        inspector.variant(variant.index, silent, files)

    assert refusal.value.code is Code.GATE_FAILED
    assert f"refused, and released all the same: {why}" in told
