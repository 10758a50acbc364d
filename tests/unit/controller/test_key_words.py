"""What a signer reads: every change in words, and nothing that steers a terminal."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from tuf.api.metadata import DelegatedRole, Signed, TargetFile, Targets

from quarterdeck_controller.repository.changes import (
    Signers,
    add_class,
    change_signers,
    rotated,
    with_key,
    with_threshold,
    without_key,
)
from quarterdeck_controller.repository.describe import describe
from quarterdeck_controller.repository.drafts import following
from quarterdeck_controller.repository.expiry import deadlines
from quarterdeck_controller.repository.keyfile import fingerprint
from quarterdeck_controller.repository.keys import KeyFolder
from quarterdeck_controller.repository.recovery import LOSSES, advice, together
from quarterdeck_controller.repository.roles import ONLINE
from quarterdeck_controller.repository.soundness import check_sound
from quarterdeck_shared.codes import Code
from tests.support.ceremony import Fleet, copied_fleet, refuses
from tests.support.releases import NOW


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return copied_fleet(tmp_path_factory.mktemp("words") / "fleet")


def told(fleet: Fleet, role: str, wanted: Signers) -> tuple[str, ...]:
    """Return what a signer of the delegator of ``role`` reads."""
    chain = fleet.repository.chain()
    changed = change_signers(chain, {role: wanted}, NOW)
    above = "root" if "root" in changed else "targets"
    return describe(above, changed[above], chain, NOW)


def test_a_new_key_a_gone_key_and_a_threshold_are_told(
    fleet: Fleet, tmp_path: Path
) -> None:
    chain, key = fleet.repository.chain(), KeyFolder(tmp_path).create("root-4")
    gone = fleet.halves["root-1"].public().keyid

    added = told(fleet, "root", with_key(chain, "root", key))
    removed = told(fleet, "root", without_key(chain, "root", "root-1"))
    raised = told(fleet, "root", with_threshold(chain, "root", 3))
    lowered = told(fleet, "root", with_threshold(chain, "root", 1))

    assert f"the key root-4 ({fingerprint(key.keyid)}) may sign for root" in added
    assert "root is signed by 2 of 4 (it was 2 of 3)" in added
    assert (
        f"the key root-1 ({fingerprint(gone)}) may no longer sign for root" in removed
    )
    assert "root is signed by 3 of 3 (it was 2 of 3)" in raised
    assert "WARNING: root is signed by 1 of 3 (it was 2 of 3)" in lowered


def test_a_key_is_taken_away_by_how_its_id_begins_too(fleet: Fleet) -> None:
    chain, gone = fleet.repository.chain(), fleet.halves["root-2"].public().keyid

    for wanted in (gone, gone[:8], fingerprint(gone), "root-2"):
        kept = without_key(chain, "root", wanted).keys
        assert gone not in {key.keyid for key in kept}
        assert len(kept) == 2
    assert refuses(lambda: without_key(chain, "root", "")).code is Code.NOT_FOUND


def test_a_rotation_with_a_key_that_signs_already_is_refused(fleet: Fleet) -> None:
    chain = fleet.repository.chain()
    same = list(chain.quorum("targets").keys.values())

    assert "signs for targets already" in (
        refuses(lambda: rotated(chain, "targets", same)).detail
    )
    assert refuses(lambda: with_key(chain, "targets", same[0])).code is Code.CONFLICT


def test_a_new_class_is_told_with_what_it_may_list(
    fleet: Fleet, tmp_path: Path
) -> None:
    chain, key = fleet.repository.chain(), KeyFolder(tmp_path).create("class-door")

    lines = describe(
        "targets", add_class(chain, "door", [key], NOW)["targets"], chain, NOW
    )

    assert "class-door is delegated to: it may list classes/door/*" in lines
    assert "class-door is signed by 1 of 1" in lines


def listed(fleet: Fleet, change: Callable[[Targets], None]) -> tuple[str, ...]:
    chain = fleet.repository.chain()
    role = following(chain.delegated["class-cam"], "class-cam", NOW)
    change(role)
    return describe("class-cam", role, chain, NOW)


def test_what_may_be_installed_is_told_with_all_that_is_signed_beside_it(
    fleet: Fleet,
) -> None:
    file = TargetFile(7, {"sha256": "ab" * 32}, "classes/cam/m-1.idx")
    file.unrecognized_fields["custom"] = {"release": 4, "downgrade": "it is safe"}

    def add(role: Targets) -> None:
        role.targets[file.path] = file

    (line, _) = listed(fleet, add)

    assert line.startswith("classes/cam/m-1.idx may be installed: index abab")
    assert "release 4" in line
    assert "downgrade it is safe" in line


def test_an_expiry_further_off_than_usual_is_warned_of(fleet: Fleet) -> None:
    def stretch(role: Targets) -> None:
        role.expires += timedelta(days=400)

    assert "WARNING: that is 490 days; usual are 90" in listed(fleet, stretch)


def test_unknown_fields_are_shown_and_none_can_steer_the_terminal(
    fleet: Fleet,
) -> None:
    def odd(role: Targets) -> None:
        role.unrecognized_fields["x-\x1b[2J"] = "\x1b]0;owned\x07 \u202e"

    lines = listed(fleet, odd)

    assert any(line.startswith("x-\\u001b[2J is ") for line in lines)
    assert all(line.isprintable() for line in lines)


def delegating(role: Signed) -> None:
    assert isinstance(role, Targets)
    role.targets["classes/other/m-1.idx"] = TargetFile(
        1, {"sha256": "00" * 32}, "classes/other/m-1.idx"
    )


def two_hashes(role: Signed) -> None:
    assert isinstance(role, Targets)
    role.targets["classes/cam/m-1.idx"] = TargetFile(
        1, {"sha256": "00" * 32, "sha512": "00"}, "classes/cam/m-1.idx"
    )


def deeper(role: Signed) -> None:
    assert isinstance(role, Targets)
    role.targets["classes/cam/a/m-1.idx"] = TargetFile(
        1, {"sha256": "00" * 32}, "classes/cam/a/m-1.idx"
    )


@pytest.mark.parametrize("change", [delegating, two_hashes, deeper])
def test_a_class_role_that_reaches_too_far_is_odd(
    fleet: Fleet, change: Callable[[Signed], None]
) -> None:
    role = following(fleet.repository.chain().delegated["class-cam"], "class-cam", NOW)
    change(role)

    refusal = refuses(lambda: check_sound("class-cam", role))

    assert refusal.code is Code.METADATA_INVALID


def test_a_delegation_that_reaches_into_another_class_is_odd(fleet: Fleet) -> None:
    targets = following(fleet.repository.chain().targets, "targets", NOW)
    check_sound("targets", targets)
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles["class-cam"].paths = ["classes/*"]

    refusal = refuses(lambda: check_sound("targets", targets))

    assert "class-cam may list ['classes/*']" in refusal.detail


@pytest.mark.parametrize("name", ["class-*", "class-?am", "class-[a-z]", "class-", "x"])
def test_a_delegation_to_a_role_that_stands_for_many_classes_is_odd(
    fleet: Fleet, name: str
) -> None:
    targets = following(fleet.repository.chain().targets, "targets", NOW)
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    roles = targets.delegations.roles
    path = f"classes/{name.removeprefix('class-')}/*"
    roles[name] = DelegatedRole(
        name, roles["class-cam"].keyids, 1, terminating=True, paths=[path]
    )

    refusal = refuses(lambda: check_sound("targets", targets))

    assert refusal.detail.endswith(f"it delegates to {name}")


def test_what_expires_first_stands_first_and_says_who_must_act(fleet: Fleet) -> None:
    chain = fleet.repository.chain()
    known = KeyFolder(fleet.home.keys).known()

    found = {it.what: it for it in deadlines(chain, known, {"root": "abcd1234"})}

    assert [*found][:2] == ["timestamp", "snapshot"]
    later, expired = NOW + timedelta(days=50), NOW + timedelta(days=400)
    assert found["timestamp"].warning(NOW) == ""
    assert "serve runs" in found["director"].warning(later)
    assert "renew it" in found["class-cam"].warning(later)
    assert found["root"].warning(NOW) == "sign the request abcd1234"
    assert found["targets"].warning(expired).startswith("EXPIRED")


@pytest.mark.parametrize("role", ONLINE)
def test_whoever_loses_an_online_key_is_told_what_the_thief_could_do(
    role: str,
) -> None:
    roles = together(role)

    lines = advice(roles)

    assert role in roles
    assert len(lines) == 2 * len(roles) + 1
    assert LOSSES[role].could in "\n".join(lines)


def test_timestamp_and_snapshot_are_recovered_together_and_offline_keys_not() -> None:
    assert together("timestamp") == together("snapshot") == ("snapshot", "timestamp")
    assert together("online") == ONLINE
    for role in ("root", "targets", "class-cam", "provenance"):
        assert "key revoke" in refuses(partial(together, role)).detail
