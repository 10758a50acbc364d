"""The record of a controller that starts, signs and is stopped."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import BrokerSettings, Settings
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import SystemClock
from tests.support.brokers import free_port
from tests.support.releases import ManualClock
from tests.support.terminal import Terminal, wait_until


def test_a_controller_records_its_life_and_its_signatures_vouch_for_the_record(
    tmp_path: Path,
) -> None:
    _found_long_ago(tmp_path / "home")
    terminal = Terminal(tmp_path)
    terminal.must("operator", "add", "ada", "--role", "admin")

    controller = terminal.starts("quarterdeck", "serve")
    try:
        wait_until("it has renewed", lambda: _has_renewed(terminal))
        second = terminal.types("serve")
    finally:
        controller.terminate()
        code = controller.wait(30)
    verified = terminal.must("audit", "verify", *_credential(terminal))
    entries = _entries(terminal)
    assert (code, second.code) == (0, 1)
    assert [(it["act"], it["outcome"]) for it in entries] == [
        ("operator.change", "done"),
        ("serve", "begun"),
        ("metadata.renew", "done"),
        ("serve", "begun"),
        ("serve", "failed"),
        ("serve", "done"),
        ("operator.recover", "done"),
    ]
    assert entries[2]["actor"] == "controller"
    assert set(entries[2]["detail"]["roles"]) >= {"timestamp"}
    assert [it["detail"].get("begun") for it in entries[4:6]] == [4, 2]
    assert verified["sound"] is True
    assert verified["witnessed"] == 2


def _found_long_ago(path: Path) -> None:
    """Make a home whose timestamp is due to be signed again."""
    settings = Settings(
        fleet="test",
        classes=("cam",),
        broker=BrokerSettings(port=free_port()),
        test=True,
    )
    clock = ManualClock(SystemClock().now() - timedelta(hours=13))
    create_home(path, settings, clock)


def _entries(terminal: Terminal) -> list[dict[str, Any]]:
    database = terminal.folder / "home" / "quarterdeck.db"
    with Store.look(database) as store, store.read() as records:
        return [kept.fields for kept in records.audit.newest(100)]


def _has_renewed(terminal: Terminal) -> bool:
    return "metadata.renew" in {it["act"] for it in _entries(terminal)}


def _credential(terminal: Terminal) -> tuple[str, str]:
    file = terminal.folder / "token"
    file.write_text(terminal.must("operator", "recover", "ada")["token"])
    file.chmod(0o600)
    return "--token-file", str(file)
