"""The broker's certificate names where devices reach it, and never runs out."""

from pathlib import Path

import pytest

from quarterdeck_controller.home import BrokerSettings, Home, Settings
from quarterdeck_controller.identity.services import (
    ensure_services,
    server_hosts,
    stale,
)
from tests.support.releases import ManualClock, make_home


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def home(tmp_path: Path, clock: ManualClock) -> Home:
    return make_home(tmp_path / "home", clock)


def test_fresh_certificates_are_left_alone(home: Home, clock: ManualClock) -> None:
    before = (home.authority / "broker.pem").read_bytes()
    clock.forward(days=240)

    assert ensure_services(home, home.settings(), clock) == ()
    assert (home.authority / "broker.pem").read_bytes() == before


def test_both_are_issued_again_when_two_thirds_of_a_year_are_over(
    home: Home, clock: ManualClock
) -> None:
    clock.forward(days=244)

    assert ensure_services(home, home.settings(), clock) == ("broker", "controller")
    assert ensure_services(home, home.settings(), clock) == ()


def test_another_host_in_the_settings_is_written_into_the_certificate(
    home: Home, clock: ManualClock
) -> None:
    moved = home.settings().model_copy(
        update={"broker": BrokerSettings(host="edge.example")}
    )

    assert ensure_services(home, moved, clock) == ("broker",)
    pem = (home.authority / "broker.pem").read_bytes()
    assert not stale(pem, ["edge.example", "localhost", "127.0.0.1"], clock.now())


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_missing_or_damaged_certificate_is_issued_again(
    home: Home, clock: ManualClock, damage: bytes | None
) -> None:
    file = home.authority / "controller.pem"
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)

    assert ensure_services(home, home.settings(), clock) == ("controller",)


@pytest.mark.parametrize("key", [b"", None, "broker.key"])
def test_a_certificate_whose_key_is_not_beside_it_is_issued_again(
    home: Home, clock: ManualClock, key: bytes | str | None
) -> None:
    file = home.authority / "controller.key"
    file.unlink()
    if key is not None:
        other = key if isinstance(key, bytes) else (home.authority / key).read_bytes()
        file.write_bytes(other)

    assert ensure_services(home, home.settings(), clock) == ("controller",)
    assert ensure_services(home, home.settings(), clock) == ()


def test_loopback_is_always_named_and_never_twice() -> None:
    def hosts(host: str) -> tuple[str, ...]:
        broker = BrokerSettings(host=host)
        return server_hosts(Settings(fleet="f", classes=("a",), broker=broker))

    assert hosts("10.0.0.1") == ("10.0.0.1", "localhost", "127.0.0.1")
    assert hosts("localhost") == ("localhost", "127.0.0.1")
