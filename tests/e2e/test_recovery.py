"""Real processes that are killed, cut off or doubled, and come right without a hand."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck_controller.demo.stage import Stage, v
from quarterdeck_controller.store.records import RolloutState
from quarterdeck_shared.codes import Code
from tests.support.deck import DEVICES, all_run, deck, kill_broker, start_controller

pytestmark = pytest.mark.timeout(240)
QUICK = {"waves": ("2", "100%"), "soak_s": 1.0, "accuracy_drop": None}
LONG_S = 60


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with deck(tmp_path_factory.mktemp("deck")) as ready:
        yield ready


def test_a_release_reaches_the_whole_fleet(stage: Stage) -> None:
    rollout = stage.roll_out(v(1), "all", **QUICK)

    assert rollout.state is RolloutState.PROMOTED
    assert all_run(v(1))(stage.observer.look())


def test_a_controller_killed_in_the_middle_of_a_rollout_finishes_it(
    stage: Stage,
) -> None:
    rollout = stage.begin_rollout(v(2), "all", **QUICK)
    stage.observer.wait(
        "the first device is touched",
        lambda sight: (
            any(sight.runs(device) == v(2) for device in DEVICES)
            or sight.rollouts[rollout.id].wave_started_at is not None
        ),
        timeout_s=LONG_S,
    )

    stage.processes.kill("controller")
    start_controller(stage)

    assert stage.wait_ended(rollout).state is RolloutState.PROMOTED
    assert all_run(v(2))(stage.observer.look())


def test_a_killed_broker_is_started_again_and_everybody_comes_back(
    stage: Stage,
) -> None:
    rollout = stage.begin_rollout(v(1), "all", **QUICK)

    kill_broker(stage)

    assert stage.wait_ended(rollout).state is RolloutState.PROMOTED
    stage.wait_online(list(DEVICES))
    assert all_run(v(1))(stage.observer.look())


def test_a_device_that_was_off_during_a_whole_rollout_catches_up(stage: Stage) -> None:
    stage.processes.kill("board")
    stage.observer.wait(
        "board is missed", lambda sight: "board" not in sight.online(), timeout_s=LONG_S
    )
    rollout = stage.roll_out(v(2), "all", **QUICK)
    away = stage.observer.look()
    stage.start_agent("board")

    assert rollout.state is RolloutState.PROMOTED
    assert all_run(v(2), "gate", "old")(away)
    stage.observer.wait("board catches up", all_run(v(2), "board"), timeout_s=LONG_S)


def test_a_device_goes_on_inferring_while_the_controller_is_away(stage: Stage) -> None:
    def counted() -> int:
        with stage.store.read() as records:
            totals = records.windows.totals(latency=False)
        return sum(it.requests for it in totals if it.device == "gate")

    stage.processes.kill("controller")
    before = counted()
    start_controller(stage)

    stage.observer.wait(
        "the windows of the time away arrive",
        lambda _: counted() > before + 20,
        timeout_s=LONG_S,
    )


def test_a_second_agent_on_the_same_state_folder_is_turned_away(stage: Stage) -> None:
    config = stage.bundle("gate") / "agent.toml"

    done = run_agent(config)

    assert done.returncode == 1
    assert Code.DUPLICATE_IDENTITY in done.stderr
    assert "Traceback" not in done.stderr


def test_a_copied_identity_is_noticed(stage: Stage, tmp_path: Path) -> None:
    bundle = shutil.copytree(
        stage.bundle("old"), tmp_path / "copy", ignore=shutil.ignore_patterns("state")
    )
    (bundle / "state").mkdir(mode=0o700)
    shutil.copy(stage.bundle("old") / "state" / "identity.pem", bundle / "state")
    config = str(bundle / "agent.toml")

    stage.processes.start("thief", "quarterdeck-agent", ["run", "--config", config])
    sight = stage.observer.wait(
        "two agents use one identity",
        lambda sight: sight.presence["old"].alternated_at is not None,
        timeout_s=LONG_S,
    )
    stage.processes.kill("thief")

    assert sight.presence["old"].alternated_at is not None
    stage.wait_online(list(DEVICES))


def test_everything_stops_when_asked(stage: Stage) -> None:
    codes = stage.processes.stop_all()

    assert codes
    assert set(codes.values()) == {0}


def run_agent(config: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("quarterdeck-agent")
    return subprocess.run(
        [str(program), "run", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
