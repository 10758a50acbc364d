"""The whole chain by its commands, over mosquitto instead of the embedded broker."""

import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest

from quarterdeck_controller.demo.stage import simulated_isa
from tests.support.brokers import free_port
from tests.support.small_model import (
    lenient_profile,
    make_model,
    make_samples,
    save_npz,
    to_calibrate,
    to_judge,
)
from tests.support.terminal import Terminal, wait_until

pytestmark = [pytest.mark.mosquitto, pytest.mark.timeout(120)]
KIND = "gateway-x86"
DEVICES = ("east", "west")
QUICK = ("--waves", "1,100%", "--soak", "1", "--probation", "1")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Give a fleet on mosquitto with two releases and two devices that are online."""
    terminal = Terminal(tmp_path)
    terminal.must("init", "--test", "--broker", "mosquitto", "--port", free_port())
    release(terminal, 1, "static")
    release(terminal, 2, "dynamic")
    processes = [terminal.starts("quarterdeck", "serve")]
    processes += [start_agent(terminal, device) for device in DEVICES]
    try:
        wait_until("all are online", lambda: presence(terminal) == {"online"})
        yield terminal
    finally:
        codes = [stop(process) for process in reversed(processes)]
    assert codes == [0] * len(processes)


def test_releases_go_out_and_come_back_over_mosquitto(terminal: Terminal) -> None:
    first = roll_out(terminal, "waves@1")
    second = roll_out(terminal, "waves@2")
    after_two = releases(terminal)
    terminal.must("rollout", "rollback", second["rollout"])
    wait_until("both are back", lambda: releases(terminal) == {"waves@1"})
    back = terminal.types("rollout", "watch", second["rollout"], "--timeout", "30")

    assert (first["state"], second["state"]) == ("promoted", "promoted")
    assert after_two == {"waves@2"}
    assert back.code == 5
    assert "rolled_back" in back.out


def release(terminal: Terminal, version: int, recipe: str) -> None:
    folder = terminal.folder
    make_model(folder / "waves.onnx")
    save_npz(folder / "calibration.npz", to_calibrate())
    save_npz(folder / "evaluation.npz", to_judge())
    said = terminal.types(
        *("model", "optimize", "waves.onnx", "--name", "waves", "--keep-refused"),
        *("--calibration", "calibration.npz", "--evaluation", "evaluation.npz"),
        *("--class", lenient_profile(KIND, folder), "--recipe", recipe),
        *("--out", f"v{version}", "--json"),
    )
    assert said.code in {0, 3}, said.err
    why = ("--override", "small enough for a test")
    terminal.must(
        "release",
        "create",
        f"v{version}",
        "--name",
        "waves",
        "--version",
        version,
        *why,
    )


def start_agent(terminal: Terminal, device: str) -> Popen[bytes]:
    samples = terminal.folder / f"samples-{device}"
    samples.mkdir()
    for number, sample in enumerate(make_samples(9, 20).inputs["x"]):
        np.save(samples / f"{number}.npy", sample[None])
    terminal.must("device", "enrol", device, "--class", KIND, "--source", samples)
    config = terminal.folder / device / "agent.toml"
    isa = simulated_isa(KIND)
    if isa:
        config.write_text(f"simulate_isa = {list(isa)}\n{config.read_text()}")
    return terminal.starts("quarterdeck-agent", "run", "--config", config)


def stop(process: Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(15)


def presence(terminal: Terminal) -> set[str]:
    return {device["presence"] for device in terminal.lists("device", "list")}


def releases(terminal: Terminal) -> set[str | None]:
    return {device["release"] for device in terminal.lists("device", "list")}


def roll_out(terminal: Terminal, name: str) -> dict[str, Any]:
    begun = terminal.must("rollout", "create", name, *QUICK)
    number = begun["rollout"]
    said = terminal.types("rollout", "watch", number, "--timeout", "60")
    assert said.code == 0, said.out
    return terminal.must("rollout", "show", number)
