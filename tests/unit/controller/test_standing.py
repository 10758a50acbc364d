"""Revoking a release, and permitting devices to go back to one."""

from pathlib import Path

import pytest

from quarterdeck_controller.home import Home
from quarterdeck_controller.release.assemble import create_release, propose_release
from quarterdeck_controller.release.catalog import Catalog, Release
from quarterdeck_controller.release.standing import (
    forbid_downgrade,
    permit_downgrade,
    revoke_release,
)
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.releases import CLASSES, ManualClock, copied_home, write_variants

CLOCK = ManualClock()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return copied_home(tmp_path / "home", released=True)


def release(
    home: Home, version: int, *, name: str = "model", held: tuple[str, ...] = ()
) -> Release:
    variants = write_variants(home.path / "v", name=name, home=home)
    proposal = propose_release(
        home,
        variants,
        name,
        version,
        CLOCK,
        trial=trusting,
        held=dict.fromkeys(CLASSES, held),
    )
    assert proposal.release is not None
    return proposal.release


def versions(home: Home) -> dict[str, int]:
    chain = Repository(home, CLOCK).chain()
    return {role: signed.version for role, signed in chain.signed().items()}


def permitted(home: Home, device_class: str = "cam") -> dict[str, str]:
    return {
        it.id: it.variants[device_class].listing.downgrade
        for it in Catalog(home).releases()
        if it.variants[device_class].listing.downgrade
    }


def test_a_new_release_lets_devices_fall_back_on_the_one_before(home: Home) -> None:
    release(home, 2)
    release(home, 3)

    assert permitted(home) == {"model@2": "the newest before model@3"}


def test_what_devices_hold_may_be_gone_back_to_until_they_hold_it_no_more(
    home: Home,
) -> None:
    first = Catalog(home).release("model@1").variants["cam"].artifact
    release(home, 2)
    release(home, 3, held=(first,))
    assert permitted(home).keys() == {"model@1", "model@2"}

    release(home, 4)

    assert permitted(home).keys() == {"model@3"}


def test_permissions_are_signed_in_the_change_that_makes_the_release(
    home: Home,
) -> None:
    before = versions(home)["class-cam"]

    release(home, 2)

    assert versions(home)["class-cam"] == before + 1


def test_a_release_of_another_model_permits_nothing(home: Home) -> None:
    release(home, 1, name="other")

    assert permitted(home) == {}


def test_an_operator_permits_and_forbids_going_back(home: Home) -> None:
    release(home, 2)
    release(home, 3)

    done = permit_downgrade(home, "model@1", "a trial", CLOCK, classes=["cam"])

    assert done.classes == ("cam",)
    assert permitted(home)["model@1"] == "a trial"
    assert "model@1" not in permitted(home, "gateway")
    forbid_downgrade(home, "model@1", CLOCK)
    assert "model@1" not in permitted(home)


def test_saying_it_again_changes_nothing(home: Home) -> None:
    permit_downgrade(home, "model@1", "a trial", CLOCK)
    revoke_release(home, "model@1", "broken", CLOCK, classes=["cam"])
    before = versions(home)

    again = [
        permit_downgrade(home, "model@1", "a trial", CLOCK),
        revoke_release(home, "model@1", "broken", CLOCK, classes=["cam"]),
    ]

    assert [it.classes for it in again] == [(), ()]
    assert versions(home) == before


def test_a_revoked_release_is_listed_and_served_no_more_and_its_reason_is_signed(
    home: Home,
) -> None:
    artifact = Catalog(home).release("model@1").variants["cam"].artifact

    done = revoke_release(home, "model@1", "wrong labels", CLOCK)

    catalog = Catalog(home)
    assert set(done.classes) == set(CLASSES)
    assert catalog.releases() == ()
    assert catalog.variant(artifact) is None
    assert catalog.read_chunk(artifact, 0) is None
    assert catalog.revoked()[artifact].reason == "wrong labels"
    assert catalog.known("model@1").revoked.keys() == set(CLASSES)
    with pytest.raises(RejectedError, match="wrong labels") as refusal:
        catalog.release("model@1")
    assert refusal.value.code is Code.RELEASE_REVOKED


def test_a_running_catalog_notices_a_revocation(home: Home) -> None:
    catalog = Catalog(home)
    artifact = catalog.release("model@1").variants["cam"].artifact

    revoke_release(home, "model@1", "broken", CLOCK)

    assert artifact in catalog.revoked()
    assert catalog.variant(artifact) is None


def test_a_release_revoked_for_one_class_goes_on_for_the_other(home: Home) -> None:
    revoke_release(home, "model@1", "slow", CLOCK, classes=["cam"])

    found = Catalog(home).release("model@1")

    assert found.variants.keys() == {"gateway"}
    assert found.revoked.keys() == {"cam"}


def test_the_name_of_a_revoked_release_is_never_used_again(home: Home) -> None:
    revoke_release(home, "model@1", "broken", CLOCK, classes=["cam"])
    variants = write_variants(home.path / "v", home=home)

    with pytest.raises(RejectedError, match="new version") as refusal:
        create_release(home, variants, "model", 1, CLOCK, trial=trusting)

    assert refusal.value.code is Code.RELEASE_REVOKED


def test_the_counter_never_falls_back_behind_what_was_revoked(home: Home) -> None:
    release(home, 2)
    revoke_release(home, "model@2", "broken", CLOCK)

    assert release(home, 3).counter == 3


def test_a_revoked_release_is_not_permitted_again(home: Home) -> None:
    revoke_release(home, "model@1", "broken", CLOCK)

    assert permit_downgrade(home, "model@1", "please", CLOCK).classes == ()
    assert permitted(home) == {}


def test_where_the_key_is_elsewhere_revoking_waits_for_it(home: Home) -> None:
    (home.keys / "class-cam.pem").unlink()

    done = revoke_release(home, "model@1", "broken", CLOCK, classes=["cam"])

    assert done.request is not None
    assert done.request.why == "revoke model@1: broken"
    assert "cam" in Catalog(home).release("model@1").variants


@pytest.mark.parametrize("reason", ["", "   ", "x" * 301])
def test_revoking_takes_a_reason(home: Home, reason: str) -> None:
    with pytest.raises(RejectedError) as refusal:
        revoke_release(home, "model@1", reason, CLOCK)

    assert refusal.value.code is Code.NOT_ALLOWED


@pytest.mark.parametrize(
    ("name", "classes"), [("model@9", ()), ("model@1", ("toaster",))]
)
def test_what_was_never_released_cannot_be_revoked(
    home: Home, name: str, classes: tuple[str, ...]
) -> None:
    with pytest.raises(RejectedError) as refusal:
        revoke_release(home, name, "broken", CLOCK, classes=classes)

    assert refusal.value.code is Code.NOT_FOUND
