"""``quarterdeck class``."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quarterdeck_controller.cli import build
from quarterdeck_controller.optimize.profile import load_profile, profile_names
from quarterdeck_shared.errors import RejectedError
from tests.unit.optimize.test_measure import REPORT

BOARD = {
    "isa": ["aarch64"],
    "memory_mb": 430,
    "cpus": 4,
    "runtime": "1.24.3",
    "providers": ["CPUExecutionProvider"],
}


def run(*arguments: str, given: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(build(arguments), arguments, input=given)
    if isinstance(result.exception, RejectedError):
        return 1, str(result.exception)
    return result.exit_code, result.output


def test_every_class_is_listed_with_how_its_latency_is_known() -> None:
    code, told = run("class", "list")

    assert code == 0
    for name in profile_names():
        assert name in told
    assert "estimated" in told


def test_a_class_is_shown_with_its_sections() -> None:
    code, told = run("class", "show", "board-512mb")

    assert code == 0
    assert "budget.memory_mb" in told
    assert "support.fold" in told


def test_a_profile_is_checked_by_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("v = 2", "utf-8")
    good, bad = run("class", "check", "gpu-fp16"), run("class", "check", str(path))

    assert good[0] == 0
    assert "estimated: this machine is no gpu-fp16" in good[1]
    assert bad[0] == 1
    assert "name: Field required" in bad[1]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_class_is_derived_from_a_report_on_standard_input(
    tmp_path: Path, *, wrapped: bool
) -> None:
    path = tmp_path / "zero.toml"
    report = {"device": "zero-1", "capabilities": BOARD} if wrapped else BOARD

    code, told = run(
        *("class", "derive", "--name", "zero", "--fingerprint", "-"),
        *("--out", str(path)),
        given=json.dumps(report),
    )

    assert code == 0, told
    assert load_profile(str(path)).prefer == "memory"


def test_a_class_is_derived_from_this_machine_and_printed() -> None:
    code, told = run("class", "derive", "--name", "here", "--here")

    assert code == 0
    assert 'name = "here"' in told


@pytest.mark.parametrize(
    ("arguments", "given", "told"),
    [
        (("--name", "zero"), "", "either --fingerprint or --here"),
        (("--name", "zero", "--here", "--fingerprint", "-"), "", "either"),
        (("--name", "Zero", "--here"), "", "'Zero' cannot name a class"),
        (("--name", "zero", "--fingerprint", "-"), "{", "standard input holds no"),
        (("--name", "zero", "--fingerprint", "-"), "[]", "holds no capabilities"),
        (
            ("--name", "zero", "--fingerprint", "-"),
            json.dumps(BOARD | {"isa": ["mmx"]}),
            "isa.0: Input should be",
        ),
        (("--name", "zero", "--fingerprint", "none.json"), "", "No such file"),
    ],
)
def test_what_no_class_can_be_derived_from_is_refused_with_why(
    arguments: tuple[str, ...], given: str, told: str
) -> None:
    code, said = run("class", "derive", *arguments, given=given)

    assert code == 1
    assert told in said


def test_a_latency_is_taken_in_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    file = tmp_path / "latency.json"
    file.write_bytes(REPORT.encode())
    first = run("class", "measured", str(file))
    again = run("class", "measured", str(file), "--json")

    assert first[0] == 0
    assert "Kept." in first[1]
    assert json.loads(again[1])["kept"] is True
    assert len(list((tmp_path / "quarterdeck" / "latencies").iterdir())) == 1


def test_a_file_that_is_no_latency_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    file.write_bytes(b'{"v": 9}')

    assert "LatencyReport: v" in run("class", "measured", str(file))[1]
    assert run("class", "measured", str(tmp_path / "none.json"))[0] == 1
