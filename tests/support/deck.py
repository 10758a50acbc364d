"""A small fleet of real processes: controller, broker and agents."""

import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from quarterdeck_controller.demo.material import prepare
from quarterdeck_controller.demo.observe import Observer, Sight
from quarterdeck_controller.demo.processes import Processes
from quarterdeck_controller.demo.screen import Screen
from quarterdeck_controller.demo.stage import Stage, make_home
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import SystemClock

DEVICES = {
    "gate": "gateway-x86-vnni",
    "old": "gateway-x86",
    "board": "board-arm64",
}
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quarterdeck"


@contextmanager
def deck(folder: Path) -> Iterator[Stage]:
    """Give a fleet of three devices, all online, and two releases to choose from."""
    clock = SystemClock()
    screen = Screen(Console(file=io.StringIO()), silent=True)
    material = prepare(CACHE, folder / "data", list(DEVICES))
    home = make_home(folder, clock)
    with Store.open(home.database) as store, Processes(folder / "logs") as processes:
        observer = Observer(store, clock, time.sleep, screen.status)
        stage = Stage(folder, home, store, material, processes, observer, screen, clock)
        start_controller(stage)
        for version in (1, 2):
            stage.optimize(version, f"variants-{version}", kinds=("static",))
            stage.release(version, f"variants-{version}")
        stage.enrol(DEVICES)
        for device in DEVICES:
            stage.start_agent(device)
        stage.wait_online(list(DEVICES))
        yield stage


def start_controller(stage: Stage) -> None:
    """Start the controller's process."""
    stage.processes.start(
        "controller", "quarterdeck", ["serve", "--home", str(stage.home.path)]
    )


def kill_broker(stage: Stage) -> int:
    """Kill the broker as a power cut would, and return what its pid was."""
    pid = int((stage.home.broker / "broker.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    return pid


def all_run(release: str, *devices: str) -> Callable[[Sight], bool]:
    """Return what tells whether all of ``devices`` run ``release``."""
    wanted = devices or tuple(DEVICES)
    return lambda sight: all(sight.runs(device) == release for device in wanted)
