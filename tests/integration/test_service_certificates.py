"""The broker's certificate is renewed while it runs, and its sessions come back."""

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from quarterdeck_controller.broker.embedded import EmbeddedBroker
from quarterdeck_controller.broker.mosquitto import MosquittoBroker
from quarterdeck_controller.broker.nats import NatsBroker
from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import BrokerSettings, Home, Settings
from quarterdeck_controller.identity.authority import Authority
from quarterdeck_controller.identity.services import ServiceKeeper, server_hosts
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError
from tests.support.brokers import free_port
from tests.support.releases import ManualClock

CLOCK = SystemClock()


def make(folder: Path, kind: str) -> tuple[Home, EmbeddedBroker]:
    settings = Settings(
        fleet="test",
        classes=("cam",),
        broker=BrokerSettings(kind=kind, port=free_port()),
        test=True,
    )
    home = create_home(folder / "home", settings, CLOCK)
    maker = NatsBroker if kind == "nats" else MosquittoBroker
    broker = maker(
        home.broker,
        settings.broker.host,
        settings.broker.port,
        ca=home.authority / "root.pem",
        certificate=home.authority / "broker.pem",
        key=home.authority / "broker.key",
        clock=CLOCK,
    )
    return home, broker


def shown(home: Home) -> int:
    """Return the serial number of the certificate that the broker shows."""
    broker = home.settings().broker
    pem = ssl.get_server_certificate((broker.host, broker.port), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.mark.parametrize(
    "kind", ["nats", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
)
async def test_a_broker_of_ours_takes_up_its_new_certificate(
    tmp_path: Path, kind: str
) -> None:
    home, broker = make(tmp_path, kind)
    store = Store.open(home.database)
    hosts = server_hosts(home.settings())
    ends = Authority.open(home.authority).issue_server(hosts, days=0.001)
    ends.write(home.authority / "broker.pem", home.authority / "broker.key")
    await broker.start()
    ended = asyncio.create_task(broker.ended())
    before = await asyncio.to_thread(shown, home)
    keeper = ServiceKeeper(home, store, broker, CLOCK)

    assert await keeper.renew() == ("broker",)

    after = await asyncio.to_thread(shown, home)
    assert after != before
    assert await keeper.renew() == ()
    assert not ended.done()
    ended.cancel()
    await broker.stop()
    store.close()


async def test_of_a_broker_that_is_not_ours_the_operator_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, _ = make(tmp_path, "nats")
    (home.authority / "broker.pem").unlink()

    with Store.open(home.database) as store:
        assert await ServiceKeeper(home, store, None, CLOCK).renew() == ("broker",)

    assert "broker_certificate_issued" in caplog.text


async def test_every_certificate_that_is_issued_again_is_in_the_audit_log(
    tmp_path: Path,
) -> None:
    home, _ = make(tmp_path, "nats")
    for name in ("broker", "controller"):
        (home.authority / f"{name}.pem").unlink()

    with Store.open(home.database) as store:
        await ServiceKeeper(home, store, None, CLOCK).renew()
        await ServiceKeeper(home, store, None, CLOCK).renew()
        with store.read() as records:
            entries = records.audit.newest(9)

    told = {it.subject: str(it.fields["detail"]) for it in entries}
    assert list(told) == ["certificate:broker", "certificate:controller"]
    for name in ("broker", "controller"):
        pem = (home.authority / f"{name}.pem").read_bytes()
        serial = x509.load_pem_x509_certificate(pem).serial_number
        assert f"{serial:x}" in told[f"certificate:{name}"]


async def test_a_session_that_cannot_be_ended_is_an_error_to_act_on(
    tmp_path: Path,
) -> None:
    _, broker = make(tmp_path, "nats")

    with pytest.raises(QuarterdeckError) as error:
        await broker.cut(["one", "two"])

    assert error.value.code is Code.BROKER_UNREACHABLE


async def test_an_issuing_authority_that_ends_within_a_year_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, _ = make(tmp_path, "nats")
    late = ManualClock(CLOCK.now())

    with Store.open(home.database) as store:
        keeper = ServiceKeeper(home, store, None, late)
        await keeper.renew()
        assert "issuing_ends" not in caplog.text

        late.forward(days=1825 - 390)
        await keeper.renew()
    assert "authority-renew" in caplog.text
