"""What no rollout may ever do, whatever the devices do."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.rollout.gate import Outcome
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.state import ENDED, Step, after
from quarterdeck_controller.rollout.view import DeviceView
from quarterdeck_controller.store.records import RolloutState
from tests.support.rollouts import ARM, X86, World, idle

CAMERA = "camera"  # the release has no variant for it
NAMES = [f"d{n:02}" for n in range(12)]

policies = st.builds(
    lambda waves, failed, drop, action: Policy.parse(
        {
            "waves": waves,
            "soak_s": 10,
            "deadline_s": 60,
            "hold_s": 100,
            "probation_s": 5,
            "max_failed": failed,
            "accuracy_drop": drop,
            "on_failure": action,
        }
    ),
    st.sampled_from([("100%",), ("1", "100%"), ("2", "50%", "100%"), ("10%", "100%")]),
    st.integers(0, 3),
    st.sampled_from([None, 5.0]),
    st.sampled_from(["rollback", "pause"]),
)
devices = st.builds(
    idle,
    st.sampled_from(NAMES),
    st.sampled_from([ARM, X86, CAMERA]),
    release=st.sampled_from(["m@1", "m@2", None]),
    online=st.booleans(),
)
fleets = st.lists(devices, min_size=1, max_size=12, unique_by=lambda view: view.id)
deeds = st.tuples(
    st.sampled_from(["commit", "fail", "defer", "online", "offline", "enrol", "wait"]),
    st.sampled_from(NAMES),
    st.sampled_from([0, 1, 10, 61]),
)
stories = st.lists(deeds, max_size=40)


def act(world: World, deed: str, name: str) -> None:
    if deed == "enrol":
        if name not in world.devices:
            world.put(idle(name))
    elif name in world.devices:
        known = world.devices[name]
        if deed in ("online", "offline"):
            world.go(name, online=deed == "online")
        elif known.member is not None and deed != "wait":
            getattr(world, deed)(name)


@given(policies, fleets, stories)
def test_whatever_happens_a_rollout_stays_within_its_bounds(
    policy: Policy, fleet: list[DeviceView], story: list[tuple[str, str, int]]
) -> None:
    world = World.of(policy, fleet)
    for deed, name, seconds in story:
        act(world, deed, name)
        before = world.rollout
        decided = world.tick(seconds)

        forward = [it for it in decided.assign if not it.undo]
        assert not forward or len(world.touched) <= decided.limit
        assert all(it.device_class in world.variants for it in decided.assign)
        assert all(it.undo for it in decided.assign) or (
            before.state is RolloutState.RUNNING
        )
        onward = decided.after.wave > before.wave
        if onward or decided.after.state is RolloutState.PROMOTED:
            passed = before.state is RolloutState.PROMOTED or (
                decided.verdict is not None
                and decided.verdict.outcome is Outcome.SUCCESSFUL
            )
            assert passed


@given(policies, fleets, stories)
def test_planning_is_deterministic_and_idempotent(
    policy: Policy, fleet: list[DeviceView], story: list[tuple[str, str, int]]
) -> None:
    world = World.of(policy, fleet)
    for deed, name, seconds in story:
        act(world, deed, name)
        world.now += timedelta(seconds=seconds)
        first, again = world.plan(), world.plan()
        assert first == again
        world.apply(first)

        assigned = {it.device for it in first.assign}
        assert not assigned & {it.device for it in world.plan().assign}


@given(policies, fleets, stories)
def test_every_rollout_has_a_way_out_without_any_device(
    policy: Policy, fleet: list[DeviceView], story: list[tuple[str, str, int]]
) -> None:
    world = World.of(policy, fleet)
    for deed, name, seconds in story:
        act(world, deed, name)
        world.tick(seconds)

    for _ in range(400):
        if world.rollout.state in (*ENDED, RolloutState.PAUSED):
            break
        world.tick(20)

    resting = world.rollout.state
    assert resting in ENDED or after(resting, Step.ABORT) is RolloutState.ABORTED


@given(policies, fleets, stories)
def test_a_rollback_reaches_every_touched_device(
    policy: Policy, fleet: list[DeviceView], story: list[tuple[str, str, int]]
) -> None:
    world = World.of(policy, fleet)
    for deed, name, seconds in story:
        act(world, deed, name)
        world.tick(seconds)
    if world.rollout.state not in (RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK):
        world.rollout = replace(
            world.rollout, state=RolloutState.ROLLING_BACK, changed_at=world.now
        )

    world.settle()

    for view in world.touched:
        assert view.member is not None
        if view.member.previous is not None:
            assert view.desired == view.member.previous.target.sha256


@settings(max_examples=50)
@given(st.integers(1, 11), st.integers(0, 11))
def test_offline_devices_never_block_promotion(online: int, offline: int) -> None:
    names = [f"on{n}" for n in range(online)], [f"off{n}" for n in range(offline)]
    policy = Policy.parse(
        {"waves": ("1", "40%", "100%"), "soak_s": 1, "deadline_s": 60, "probation_s": 5}
    )
    views = [idle(it) for it in names[0]] + [idle(it, online=False) for it in names[1]]
    world = World.of(policy, views)

    for _ in range(30):
        world.settle()
        for view in world.touched:
            if view.online_since:
                world.commit(view.id)
        world.tick(1)

    assert world.rollout.state is RolloutState.PROMOTED
