from dataclasses import replace
from datetime import timedelta

import pytest

from quarterdeck_controller.monitor.compare import Share
from quarterdeck_controller.rollout.gate import Outcome
from quarterdeck_controller.rollout.plan import preview
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.view import Status
from quarterdeck_controller.store.records import Rollout, RolloutState
from quarterdeck_shared.clock import SystemClock
from tests.support.rollouts import ARM, START, X86, World, idle, runs


def policy(**changes: object) -> Policy:
    quick = {"soak_s": 10, "deadline_s": 60, "hold_s": 100, "probation_s": 5}
    return Policy.parse({**quick, **changes})


def world(count: int = 8, **changes: object) -> World:
    return World.of(policy(**changes), [idle(f"d{n:02}") for n in range(count)])


def test_the_first_wave_is_as_small_as_the_policy_says() -> None:
    it = world(waves=("1", "50%", "100%"))

    it.settle()

    assert len(it.touched) == 1


def test_the_next_wave_waits_for_commit_and_soak() -> None:
    it = world(waves=("1", "50%", "100%"))
    it.settle()
    it.tick(5)
    assert len(it.touched) == 1

    it.commit()
    it.settle()
    it.tick(9)
    assert len(it.touched) == 1
    it.tick(1)
    it.settle()

    assert len(it.touched) == 4


def test_a_rollout_without_trouble_is_promoted() -> None:
    it = world(waves=("1", "50%", "100%"))

    for _ in range(3):
        it.settle()
        it.commit()
        it.settle()
        it.tick(10)

    assert it.rollout.state is RolloutState.PROMOTED
    assert len(it.touched) == 8
    assert it.told == [
        "running: wave 1 of 3: m@2 to 1 device",
        "running: wave 1 of 3: settled, soaking for 10 s",
        "running: wave 1 of 3 passed: 0 of 1 devices failed",
        "running: wave 2 of 3: m@2 to 3 devices",
        "running: wave 2 of 3: settled, soaking for 10 s",
        "running: wave 2 of 3 passed: 0 of 4 devices failed",
        "running: wave 3 of 3: m@2 to 4 devices",
        "running: wave 3 of 3: settled, soaking for 10 s",
        "promoted: 0 of 8 devices failed",
    ]


def test_a_failed_device_takes_every_touched_device_back() -> None:
    it = world(waves=("50%", "100%"))
    it.settle()
    names = [view.id for view in it.touched]
    it.commit(*names[1:])
    it.fail(names[0])

    it.settle()

    assert it.rollout.state is RolloutState.ROLLING_BACK
    assert f"{names[0]} (golden_failed)" in it.rollout.reason
    assert all(view.desired == runs("m@1", X86).target.sha256 for view in it.touched)


def test_a_rollback_ends_when_the_devices_are_back() -> None:
    it = world(waves=("50%", "100%"))
    it.settle()
    it.fail(it.touched[0].id)
    it.settle()
    it.commit()

    it.settle()

    assert it.rollout.state is RolloutState.ROLLED_BACK
    assert "4 devices back" in it.rollout.reason


def test_a_rollback_ends_at_the_deadline_when_nobody_answers() -> None:
    it = world(waves=("50%", "100%"))
    it.settle()
    it.fail(it.touched[0].id)
    it.settle()
    assert it.tick(59).empty

    it.tick(1)

    assert it.rollout.state is RolloutState.ROLLED_BACK
    assert "not heard yet" in it.rollout.reason


def test_a_device_without_a_previous_release_is_named_and_left() -> None:
    it = World.of(policy(waves=("100%",)), [idle("a"), idle("new", release=None)])
    it.settle()
    it.commit("new")
    it.fail("a")
    it.settle()
    it.tick(60)

    assert it.rollout.state is RolloutState.ROLLED_BACK
    assert "left, for want of a previous release: new" in it.rollout.reason
    assert it.devices["new"].desired == runs("m@2", X86).target.sha256


def test_a_rollback_withdraws_what_a_device_that_is_away_had_not_begun() -> None:
    away = idle("away", release=None, online=False)
    it = World.of(policy(waves=("100%",)), [idle("a"), away])
    it.settle()
    assert it.devices["away"].desired == runs("m@2", X86).target.sha256

    it.fail("a")
    it.settle()

    assert it.devices["away"].desired is None


def test_a_policy_may_pause_instead_of_rolling_back() -> None:
    it = world(waves=("50%", "100%"), on_failure="pause")
    it.settle()
    it.fail(it.touched[0].id)

    it.settle()

    assert it.rollout.state is RolloutState.PAUSED


def test_a_silent_online_device_fails_at_the_deadline() -> None:
    it = world(waves=("1", "100%"))
    it.settle()
    assert it.tick(59).empty

    it.tick(1)

    assert it.rollout.state is RolloutState.ROLLING_BACK
    assert "(timed_out)" in it.rollout.reason


def test_a_device_that_came_back_late_gets_the_whole_deadline() -> None:
    it = world(3, waves=("100%",))
    it.settle()
    it.go("d00", online=False)
    it.commit("d01")
    it.tick(30)
    it.go("d00", online=True)
    it.commit("d02")

    assert it.tick(59).reasons == ("wave 1 of 1: waiting for d00",)
    it.tick(1)
    assert it.rollout.state is RolloutState.ROLLING_BACK


def test_offline_devices_are_left_out_and_keep_their_assignment() -> None:
    it = world(waves=("100%",))
    it.go("d03", "d04", online=False)
    it.settle()
    it.commit(*(f"d{n:02}" for n in (0, 1, 2, 5, 6, 7)))
    it.settle()

    it.tick(10)

    assert it.rollout.state is RolloutState.PROMOTED
    assert "still to come: d03, d04" in it.rollout.reason
    assert it.devices["d03"].desired == runs("m@2", X86).target.sha256


def test_a_class_of_which_no_device_is_online_gives_no_canary() -> None:
    it = world(2, waves=("1", "100%"))
    it.put(idle("alone", ARM, online=False))

    it.settle()

    assert len(it.touched) == 1
    assert it.touched[0].online_since is not None


def test_a_wave_that_nobody_saw_is_paused_and_never_promoted() -> None:
    it = world(2, waves=("100%",))
    it.go("d00", "d01", online=False)
    it.settle()

    for _ in range(30):
        it.tick(10)

    assert it.rollout.state is RolloutState.PAUSED
    assert "no device was online" in it.rollout.reason


def test_a_deferring_device_is_neither_failed_nor_waited_for() -> None:
    it = world(4, waves=("100%",))
    it.settle()
    it.commit("d00", "d01", "d02")
    it.defer("d03")
    it.tick(60)
    it.settle()

    it.tick(10)

    assert it.rollout.state is RolloutState.PROMOTED


def test_a_share_of_failures_may_be_accepted() -> None:
    it = world(10, waves=("100%",), max_failed=None, max_failed_share=0.2)
    it.settle()
    it.fail("d00", "d01")
    it.commit(*(f"d{n:02}" for n in range(2, 10)))
    it.settle()

    it.tick(10)

    assert it.rollout.state is RolloutState.PROMOTED


def test_resuming_excuses_what_failed_before() -> None:
    it = world(4, waves=("50%", "100%"), on_failure="pause")
    it.settle()
    failed, fine = (view.id for view in it.touched)
    it.fail(failed)
    it.commit(fine)
    it.settle()
    assert it.rollout.state is RolloutState.PAUSED

    it.rollout = _resumed(it)
    it.settle()

    assert it.rollout.state is RolloutState.RUNNING
    assert it.plan().counts()[Status.EXCUSED] == 1


def _resumed(it: World) -> Rollout:
    return replace(it.rollout, state=RolloutState.RUNNING, resumed_at=it.now)


def test_a_class_without_a_variant_is_refused_with_the_reason() -> None:
    it = World.of(policy(waves=("100%",)), [idle("a"), idle("b", "camera")])

    decided = it.tick()

    assert decided.refused == (("b", "m@2 has no variant for class camera"),)
    assert [assign.device for assign in decided.assign] == ["a"]


def test_each_class_is_in_the_first_wave() -> None:
    views = [idle(f"x{n}", X86) for n in range(30)] + [idle("a0", ARM)]
    it = World.of(policy(waves=("2", "100%")), views)

    it.settle()

    assert {view.device_class for view in it.touched} == {X86, ARM}


def test_devices_that_are_online_come_first() -> None:
    it = world(20, waves=("1", "100%"))
    it.go(*(f"d{n:02}" for n in range(20) if n != 13), online=False)

    it.settle()

    assert [view.id for view in it.touched] == ["d13"]


def test_a_late_joiner_comes_into_the_current_wave() -> None:
    it = world(4, waves=("100%",))
    it.settle()
    it.commit()
    it.put(idle("late"))

    it.settle()

    assert it.devices["late"].member is not None


def test_a_device_that_runs_the_release_already_is_left_alone() -> None:
    it = World.of(policy(waves=("100%",)), [idle("a", release="m@2"), idle("b")])

    it.settle()

    assert [view.id for view in it.touched] == ["b"]


def test_a_device_that_another_rollout_has_is_refused() -> None:
    it = World.of(policy(waves=("100%",)), [replace(idle("a"), held_by=3), idle("b")])

    decided = it.tick()

    assert decided.refused == (("a", "rollout 3 has it and has not ended"),)


def test_a_rollback_leaves_a_device_that_has_moved_on() -> None:
    it = world(2, waves=("100%",))
    it.settle()
    it.commit()
    newer = runs("m@3", X86).target.sha256
    it.put(replace(it.devices["d00"], desired=newer))
    it.rollout = replace(it.rollout, state=RolloutState.ROLLING_BACK, changed_at=it.now)

    it.settle()

    assert it.devices["d00"].desired == newer
    assert it.devices["d01"].desired == runs("m@1", X86).target.sha256


def test_lost_accuracy_rolls_the_cohort_back() -> None:
    it = world(waves=("50%", "100%"), accuracy_drop=3)
    it.settle()
    it.commit()
    it.settle()
    it.measure(old=Share(180, 200), new=Share(140, 200))

    it.tick(10)

    assert it.rollout.state is RolloutState.ROLLING_BACK
    assert "accuracy 90.0% before (n=800), 70.0% now (n=800)" in it.rollout.reason


def test_too_few_labels_hold_and_then_pause() -> None:
    it = world(waves=("50%", "100%"), accuracy_drop=3)
    it.settle()
    it.commit()
    it.settle()
    it.measure(old=Share(180, 200), new=Share(9, 10))
    decided = it.tick(10)
    assert decided.verdict is not None
    assert decided.verdict.outcome is Outcome.INCONCLUSIVE
    assert not it.told[-1].startswith("paused")

    for _ in range(11):
        it.tick(10)

    assert it.rollout.state is RolloutState.PAUSED
    assert "200 needed of each" in it.rollout.reason
    assert len(it.touched) == 4


def test_labels_that_come_later_let_a_held_wave_pass() -> None:
    it = world(waves=("50%", "100%"), accuracy_drop=10)
    it.settle()
    it.commit()
    it.settle()
    it.measure(old=Share(180, 200), new=Share(9, 10))
    it.tick(10)
    it.measure(old=Share(180, 200), new=Share(181, 200))

    it.tick(10)

    assert it.rollout.wave == 1


def test_the_gate_looks_only_when_a_look_is_due() -> None:
    it = world(waves=("50%", "100%"), accuracy_drop=3)
    it.settle()
    it.commit()
    it.settle()
    it.measure(old=Share(180, 200), new=Share(9, 10))
    assert it.tick(10).verdict is not None

    verdicts = [it.tick(1).verdict for _ in range(4)]

    assert verdicts == [None] * 4


def test_a_preview_shows_every_wave_before_anything_happens() -> None:
    it = world(8, waves=("1", "50%", "100%"))

    waves = preview(it.policy, it.rollout, it.variants, tuple(it.devices.values()))
    it.settle()

    assert [len(wave) for wave in waves] == [1, 3, 4]
    assert [view.id for view in waves[0]] == [view.id for view in it.touched]


@pytest.mark.parametrize("state", [RolloutState.PAUSED, RolloutState.PLANNED])
def test_nothing_happens_while_a_rollout_rests(state: RolloutState) -> None:
    it = world()
    it.rollout = replace(it.rollout, state=state)

    it.now = START + timedelta(days=9)

    assert it.plan().empty


def test_a_plan_for_a_thousand_devices_takes_less_than_a_second() -> None:
    it = world(1000, waves=("1%", "100%"))
    clock = SystemClock()

    began = clock.monotonic()
    decided = it.plan()
    spent = clock.monotonic() - began

    assert len(decided.assign) == 10
    assert spent < 1
