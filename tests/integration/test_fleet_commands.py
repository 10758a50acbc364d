"""``quarterdeck device``, ``rollout`` and ``monitor`` as an operator types them."""

import json
from pathlib import Path

import pytest

from quarterdeck_controller.rollout.execute import command
from quarterdeck_controller.rollout.state import Step
from quarterdeck_controller.store.records import StoredWindow
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.telemetry.sketch import Sketch
from tests.support.fleet import FakeDevice
from tests.support.operator import CLOCK, Operator


@pytest.fixture
def operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Operator:
    monkeypatch.setenv("COLUMNS", "200")
    return Operator(tmp_path, monkeypatch, capsys)


def test_an_empty_fleet_says_what_to_do(operator: Operator) -> None:
    assert (
        "quarterdeck device enrol ID --class K" in operator.types("device", "list").out
    )
    assert "quarterdeck rollout create" in operator.types("rollout", "list").out
    assert "No telemetry" in operator.types("monitor").out
    assert operator.types("device", "list", "--json").rows == []


def test_an_enrolled_device_has_a_bundle_and_is_listed(operator: Operator) -> None:
    said = operator.enrols("till-1", "gateway", "--tag", "site-a", "--json")

    listed = operator.types("device", "list", "--json").rows
    assert said.code == 0
    assert (Path(said.value["bundle"]) / "agent.toml").is_file()
    assert listed[0]["device"] == "till-1"
    assert listed[0]["tags"] == ["site-a"]
    assert listed[0]["presence"] == "never_seen"


@pytest.mark.parametrize(
    ("device", "device_class", "code"),
    [
        ("Till 1", "gateway", "name_invalid"),
        ("till-1", "fridge", "profile_invalid"),
        ("here", "gateway", "conflict"),
    ],
)
def test_a_device_that_cannot_be_enrolled_leaves_nothing_behind(
    operator: Operator, device: str, device_class: str, code: str
) -> None:
    operator.enrols("here")

    said = operator.types(
        "device", "enrol", device, "--class", device_class, "--out", operator.path / "b"
    )

    assert said.code == 1
    assert code in said.err
    assert not (operator.path / "b").exists()
    assert len(operator.types("device", "list", "--json").rows) == 1


def test_a_bundle_that_cannot_be_written_enrols_nobody(operator: Operator) -> None:
    (operator.path / "b").mkdir()
    (operator.path / "b" / "something").touch()

    said = operator.types(
        "device", "enrol", "a", "--class", "gateway", "--out", operator.path / "b"
    )

    assert said.code == 1
    assert operator.types("device", "list", "--json").rows == []


@pytest.mark.parametrize(
    "words",
    [("device", "show", "nobody"), ("rollout", "show", 9), ("rollout", "abort", 9)],
)
def test_what_is_not_there_ends_with_3(
    operator: Operator, words: tuple[object, ...]
) -> None:
    said = operator.types(*words)

    assert said.code == 3
    assert "not_found" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ("monitor", "--since", "soon"),
        ("monitor", "--by", "colour"),
        ("rollout", "create", "m@1", "--soak", "1 fortnight"),
        ("rollout", "show", "first"),
    ],
)
def test_bad_usage_ends_with_2(operator: Operator, words: tuple[object, ...]) -> None:
    assert operator.types(*words).code == 2


def test_a_silly_policy_ends_with_1_and_the_field(operator: Operator) -> None:
    said = operator.types("rollout", "create", "m@1", "--waves", "50%,10%,100%")

    assert said.code == 1
    assert "policy_invalid" in said.err
    assert "must grow" in said.err


def test_a_plan_shows_waves_and_refusals_and_changes_nothing(
    operator: Operator,
) -> None:
    operator.releases(1)
    for device in ("a", "b", "c"):
        operator.enrols(device)
    operator.enrols("eye", "cam")

    plan = operator.types("rollout", "plan", "m@1", "--waves", "1,100%", "--json").value
    told = operator.types("rollout", "plan", "m@1", "--waves", "1,100%").out

    assert [len(wave["devices"]) for wave in plan["waves"]] == [1, 2]
    assert plan["refused"] == [
        {"device": "eye", "reason": "m@1 has no variant for class cam"}
    ]
    assert "no variant for class cam" in told
    assert operator.types("rollout", "list", "--json").rows == []


def test_a_rollout_is_made_steered_and_shown(operator: Operator) -> None:
    operator.releases(1)
    operator.enrols("a")

    made = operator.types("rollout", "create", "m@1", "--planned", "--json").value
    states = [
        operator.types("rollout", verb, made["rollout"], "--json").value["state"]
        for verb in ("resume", "pause", "resume", "abort")
    ]
    shown = operator.types("rollout", "show", made["rollout"])

    assert made["state"] == "planned"
    assert states == ["running", "paused", "running", "aborted"]
    assert "aborted by the operator" in shown.out
    assert operator.types("rollout", "pause", made["rollout"]).code == 1


def test_an_overlapping_rollout_is_refused(operator: Operator) -> None:
    operator.releases(1)
    operator.enrols("a")
    operator.types("rollout", "create", "m@1")

    said = operator.types("rollout", "create", "m@1")

    assert said.code == 1
    assert "conflict" in said.err


def test_watching_ends_with_how_the_rollout_ended(operator: Operator) -> None:
    operator.releases(1)
    operator.enrols("a")
    operator.types("rollout", "create", "m@1")
    late = operator.types("rollout", "watch", 1, "--timeout", "0s")
    with Store.open(operator.home.database) as store, store.write() as records:
        command(records, 1, Step.ABORT, "enough", CLOCK.now())

    ended = operator.types("rollout", "watch", 1, "--json")

    assert late.code == 6
    assert ended.code == 5
    assert json.loads(ended.out.splitlines()[-1])["state"] == "aborted"


def test_the_monitor_shows_what_devices_measured(operator: Operator) -> None:
    operator.enrols("a")
    latency = Sketch()
    latency.add(3_000_000)
    window = FakeDevice("a").window(
        1, started=CLOCK.now(), latency=latency, label_total=100, label_ok=90
    )
    with Store.open(operator.home.database) as store, store.write() as records:
        records.windows.add([(StoredWindow("a", window), window.encode())])

    (line,) = operator.types("monitor", "--by", "device", "--json").rows
    table = operator.types("monitor", "--by", "device").out

    assert (line["device"], line["accuracy"], line["labelled"]) == ("a", 0.9, 100)
    assert line["p50_ms"] == pytest.approx(3.0, rel=0.016)
    assert "90.0%" in table
    assert operator.types("monitor", "-l", "class=cam", "--json").rows == []


def test_a_device_shows_why_it_runs_what_it_runs(operator: Operator) -> None:
    operator.enrols("a")

    said = operator.types("device", "show", "a")

    assert said.code == 0
    assert "nothing is assigned to it" in said.out
