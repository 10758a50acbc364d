"""Wrong input by the real commands: each says what, why and what to do, and ends."""

import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quarterdeck_controller.home import Home
from quarterdeck_shared.codes import Code
from tests.support.brokers import free_port
from tests.support.releases import write_variants
from tests.support.small_model import (
    make_model,
    save_npz,
    to_calibrate,
    to_judge,
)
from tests.support.terminal import INSTALLED, Said, Terminal, wait_until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a home, one release, one enrolled device, model and data."""
    folder = tmp_path_factory.mktemp("original")
    terminal = Terminal(folder)
    classes = ("--class", "cam", "--class", "gateway")
    terminal.must("init", "--test", "--port", free_port(), *classes)
    write_variants(folder / "v1", home=Home.open(folder / "home"))
    terminal.must("release", "create", "v1", "--name", "model", "--version", 1)
    terminal.must("device", "enrol", "one", "--class", "cam")
    make_model(folder / "waves.onnx")
    save_npz(folder / "calibration.npz", to_calibrate())
    save_npz(folder / "evaluation.npz", to_judge())
    return folder


@pytest.fixture
def terminal(original: Path, tmp_path: Path) -> Terminal:
    return Terminal(shutil.copytree(original, tmp_path / "fleet"))


def explains(said: Said, code: Code, *told: str) -> None:
    assert said.code == 1
    assert f"error {code}:" in said.told
    assert code.sentence in said.told
    assert code.remedy in said.told
    assert "Traceback" not in said.err
    assert not said.out
    for words in told:
        assert words in said.told


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "quarterdeck.db" not in path.name}


OPTIMIZE = ("model", "optimize", "waves.onnx", "--class", "board-arm64")
CALIBRATION = ("--calibration", "calibration.npz")
EVALUATION = ("--evaluation", "evaluation.npz")
DATA = (*CALIBRATION, *EVALUATION)
NAMED = ("--name", "waves")

Words = tuple[object, ...]
COMMANDS: dict[str, tuple[Words, Code, str]] = {
    "a model's name": (
        (*OPTIMIZE, *DATA, "--name", "X Y"),
        Code.NAME_INVALID,
        "'X Y' cannot name a model",
    ),
    "a text as data": (
        (*OPTIMIZE, *NAMED, *CALIBRATION, "--evaluation", "home/settings.toml"),
        Code.DATA_INVALID,
        "home/settings.toml is no .npz file, such as numpy.savez writes",
    ),
    "a file of labels that is not there": (
        (*OPTIMIZE, *NAMED, *DATA, "--labels", "labels.txt"),
        Code.DATA_INVALID,
        "--labels labels.txt: No such file or directory",
    ),
    "labels named twice": (
        (*OPTIMIZE, *NAMED, *DATA, "--labels", "a,b,a,c"),
        Code.DATA_INVALID,
        "named twice: a",
    ),
    "a file where the variants go": (
        (*OPTIMIZE, *NAMED, *DATA, "--out", "waves.onnx"),
        Code.DISK_FAILED,
        "waves.onnx could not be written: Not a directory",
    ),
    "a text as model": (
        ("model", "inspect", "home/settings.toml"),
        Code.MODEL_INVALID,
        "home/settings.toml: the file is not an ONNX model",
    ),
    "a device that is there": (
        ("device", "enrol", "one", "--class", "cam", "--out", "b"),
        Code.CONFLICT,
        "invite it anew with --again",
    ),
    "a bundle where it cannot be": (
        ("device", "enrol", "two", "--class", "cam", "--out", "waves.onnx/two"),
        Code.DISK_FAILED,
        "waves.onnx/two cannot be written",
    ),
    "the bundle of a device that is of another class": (
        ("device", "enrol", "one", "--class", "gateway", "--out", "b", "--again"),
        Code.CONFLICT,
        "device one is of class cam, now gateway was asked for",
    ),
    "a home where it cannot be": (
        ("init", "--test", "--home", "waves.onnx/home"),
        Code.DISK_FAILED,
        "waves.onnx/home cannot be made",
    ),
    "a port that is none": (
        ("init", "--test", "--home", "other", "--port", 99999),
        Code.SETTINGS_INVALID,
        "broker.port: Input should be less than or equal to 65535, got 99999",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_that_cannot_be_carried_out_leaves_nothing(
    terminal: Terminal, case: str
) -> None:
    words, code, told = COMMANDS[case]
    before = everything(terminal.folder)

    said = terminal.types(*words)

    explains(said, code, told)
    assert everything(terminal.folder) == before


def settings(text: bytes) -> Callable[[Path], object]:
    return lambda home: (home / "settings.toml").write_bytes(text)


def swap(old: str, new: str) -> Callable[[Path], object]:
    def change(home: Path) -> None:
        file = home / "settings.toml"
        assert old in file.read_text("utf-8")
        file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")

    return change


def newer_database(home: Path) -> None:
    with sqlite3.connect(home / "quarterdeck.db") as database:
        database.execute("PRAGMA user_version = 99")


def folder_for_lock(home: Path) -> None:
    (home / "serve.lock").mkdir()


HOMES: dict[str, tuple[Callable[[Path], object], Code, str]] = {
    "no text": (settings(b"\x96\xff\x00"), Code.HOME_INVALID, "it is not TOML"),
    "no TOML": (settings(b"fleet = "), Code.HOME_INVALID, "it is not TOML"),
    "a misspelt key": (
        swap("fleet =", "fleets ="),
        Code.HOME_INVALID,
        "fleet is missing; fleets is no setting",
    ),
    "another machine's address": (
        swap("127.0.0.1", "192.0.2.1"),
        Code.BROKER_FAILED,
        "it cannot listen at 192.0.2.1",
    ),
    "a newer database": (newer_database, Code.HOME_INVALID, "schema version 99"),
    "a damaged database": (
        lambda home: (home / "quarterdeck.db").write_bytes(b"no database" * 999),
        Code.HOME_INVALID,
        "quarterdeck.db: file is not a database",
    ),
    "a lock that cannot be had": (folder_for_lock, Code.DISK_FAILED, "Is a directory"),
}


@pytest.mark.parametrize("case", HOMES)
def test_a_damaged_home_is_not_served(terminal: Terminal, case: str) -> None:
    damage, code, told = HOMES[case]
    damage(terminal.folder / "home")

    said = terminal.types("serve")

    explains(said, code, told)


def test_a_disk_without_room_is_no_damaged_home(terminal: Terminal) -> None:
    words = (INSTALLED / "quarterdeck", "device", "enrol", "two", "--class", "cam")
    typed = " ".join(map(str, words))
    home = terminal.folder / "home"

    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 4; {typed} --home {home}"],
        cwd=terminal.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "error disk_f" in done.stderr
    assert "backup" not in done.stderr
    assert [it["device"] for it in terminal.lists("device", "list")] == ["one"]
    assert not (terminal.folder / "two").exists()


def test_a_controller_says_that_a_broker_elsewhere_does_not_let_it_in(
    terminal: Terminal,
) -> None:
    swap('kind = "nats"', 'kind = "external"')(terminal.folder / "home")
    log = terminal.folder / "serve.log"

    process = terminal.starts("quarterdeck", "serve")
    wait_until("it tells", lambda: "it goes on trying" in log.read_text("utf-8"))
    process.send_signal(signal.SIGTERM)

    assert process.wait(15) == 0
    assert "broker_unreachable" in log.read_text("utf-8")


def test_a_rollout_that_nobody_carries_out_is_told_from_one_that_is_slow(
    terminal: Terminal,
) -> None:
    created = terminal.types("rollout", "create", "model@1")
    watched = terminal.types("rollout", "watch", 1, "--timeout", "0", "--json")

    assert "start one with: quarterdeck serve" in created.told
    assert "start one with: quarterdeck serve" in watched.told
    assert watched.row["state"] == "running"


def test_a_device_gets_a_new_token_when_it_is_enrolled_again(
    terminal: Terminal,
) -> None:
    again = terminal.must(
        "device", "enrol", "one", "--class", "cam", "--out", "b", "--again"
    )

    old, new = ((terminal.folder / it / "token").read_text() for it in ("one", "b"))
    assert again["device"] == "one"
    assert old != new
    assert len(terminal.lists("device", "list")) == 1


def agent_toml(old: str, new: str) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        file = bundle / "agent.toml"
        file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")

    return change


def file_for_state(bundle: Path) -> None:
    (bundle / "state").touch()


BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a misspelt key": (
        agent_toml("port =", "prot ="),
        "broker.port is missing; broker.prot is no setting",
    ),
    "no text": (
        lambda bundle: (bundle / "agent.toml").write_bytes(b"\x98\x00"),
        "is not TOML",
    ),
    "a text for the root": (
        lambda bundle: (bundle / "root.json").write_text("hi"),
        "root.json is no signed root of a fleet",
    ),
    "a file for the state": (file_for_state, "state cannot be used: File exists"),
}


@pytest.mark.parametrize("case", BUNDLES)
def test_an_agent_that_cannot_work_does_not_start(
    terminal: Terminal, case: str
) -> None:
    damage, told = BUNDLES[case]
    damage(terminal.folder / "one")

    said = terminal.agent("run", "--config", "one/agent.toml")

    explains(said, Code.SETTINGS_INVALID, told)


CLAIMS: dict[str, tuple[Callable[[Path], object], Code, str]] = {
    "no claim": (
        lambda bundle: (bundle / "claim.pem").unlink(),
        Code.SETTINGS_INVALID,
        "claim.pem: No such file or directory",
    ),
    "a text for a claim": (
        lambda bundle: (bundle / "claim.pem").write_text("hi"),
        Code.SETTINGS_INVALID,
        "holds no claim",
    ),
    "an empty token": (
        lambda bundle: (bundle / "token").write_text("\n"),
        Code.TOKEN_INVALID,
        "does not hold a token",
    ),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_a_machine_that_cannot_enrol_is_told_why(terminal: Terminal, case: str) -> None:
    damage, code, told = CLAIMS[case]
    damage(terminal.folder / "one")

    said = terminal.agent("enrol", "--config", "one/agent.toml", "--wait", "1")

    explains(said, code, told)


@pytest.mark.parametrize(
    "words",
    [("init", "--test", "--home", "x"), ("class", "list"), ("release", "list"),
     ("rollout", "list"),
     ("device", "list"), ("monitor",), ("device", "show", "one"),
     ("release", "show", "model@1"), ("rollout", "plan", "model@1"),
     ("class", "show", "board-arm64"), ("model", "inspect", "waves.onnx")],
)  # fmt: skip
def test_json_is_one_value_and_nothing_else(terminal: Terminal, words: Words) -> None:
    said = terminal.types(*words, "--json")

    assert said.code == 0, said.err
    assert said.out.count("\n") == 1
    assert said.rows is not None if said.out.startswith("[") else said.row


@pytest.mark.parametrize("noun", ["release", "device"])
def test_what_is_not_there_ends_with_3_whatever_it_is(
    terminal: Terminal, noun: str
) -> None:
    said = terminal.types(noun, "show", "nothing")

    assert said.code == 3
    assert f"error {Code.NOT_FOUND}:" in said.told


@pytest.mark.parametrize("program", ["quarterdeck", "quarterdeck-agent"])
def test_ctrl_c_while_a_command_is_loading_is_no_crash(
    terminal: Terminal, program: str
) -> None:
    words = {
        "quarterdeck": ["model", "inspect", "waves.onnx"],
        "quarterdeck-agent": ["run", "--config", "one/agent.toml"],
    }[program]
    process = subprocess.Popen(
        [str(INSTALLED / program), *words],
        cwd=terminal.folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    loading = "numpy" if program == "quarterdeck" else "_rust"
    try:
        wait_for_file(process.pid, loading)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()

    assert process.returncode in {0, 130}
    assert b"Traceback" not in err


def wait_for_file(pid: int, part: str) -> None:
    deadline = time.monotonic() + 20
    while part not in Path(f"/proc/{pid}/maps").read_text("utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.002)
