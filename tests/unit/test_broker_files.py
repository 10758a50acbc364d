"""The text of the brokers' configurations and permissions."""

import json
from pathlib import Path

import pytest

from quarterdeck_controller.broker import mosquitto, nats
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_shared.bus.port import Endpoint

FOLDER = Path("/fleet home/broker")
SERVER = Endpoint("127.0.0.1", 18883, Path("/ca"), Path("/cert"), Path('/a "key"'))


def test_nats_gives_a_device_its_own_topics_and_no_others() -> None:
    text = nats.configuration(FOLDER, SERVER, Admission((Grant("d-1", "board"),)))

    controller, device = json.loads(text)["authorization"]["users"]
    only = {"allowed_connection_types": ["MQTT"]}
    assert controller == {"user": "CN=controller", **only}
    assert device == {
        **only,
        "user": "CN=d-1,OU=board",
        "permissions": {
            "publish": ["qd.1.device.d-1.up.>", "qd.1.device.d-1.up"],
            "subscribe": [
                "qd.1.device.d-1.down.>",
                "qd.1.device.d-1.down",
                "qd.1.class.board.chunk.*",
                "qd.1.controller.state",
                "qd.1.metadata.timestamp",
            ],
        },
    }


def test_nats_asks_for_certificates_at_every_door() -> None:
    settings = json.loads(nats.configuration(FOLDER, SERVER, Admission()))

    assert settings["tls"]["verify_and_map"]
    assert settings["mqtt"]["tls"]["verify_and_map"]
    assert settings["listen"].startswith("127.0.0.1:")
    assert settings["mqtt"]["listen"] == "127.0.0.1:18883"
    assert "http" not in settings


def test_nats_listens_on_an_ipv6_address() -> None:
    server = Endpoint("::1", 18883, Path("/ca"), Path("/cert"), Path("/key"))

    settings = json.loads(nats.configuration(FOLDER, server, Admission()))

    assert settings["mqtt"]["listen"] == "[::1]:18883"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/b", ("a.b",)),
        ("a/+/b", ("a.*.b",)),
        ("a/#", ("a.>", "a")),
    ],
)
def test_filters_become_subjects(pattern: str, expected: tuple[str, ...]) -> None:
    assert nats.subjects(pattern) == expected


def test_mosquitto_names_each_device_and_gives_nothing_to_others() -> None:
    text = mosquitto.permissions([Grant("d-1", "board")])

    assert text.splitlines() == [
        "user controller",
        "topic readwrite qd/1/#",
        "",
        "user d-1",
        "topic write qd/1/device/d-1/up/#",
        "topic read qd/1/device/d-1/down/#",
        "topic read qd/1/class/board/chunk/+",
        "topic read qd/1/controller/state",
        "topic read qd/1/metadata/timestamp",
    ]


def test_mosquitto_takes_user_and_client_id_from_the_certificate() -> None:
    lines = mosquitto.configuration(FOLDER, SERVER, None).splitlines()

    assert "listener 18883 127.0.0.1" in lines
    assert "require_certificate true" in lines
    assert "use_identity_as_username true" in lines
    assert "use_username_as_clientid true" in lines
    assert "allow_anonymous false" in lines
    assert not any(line.startswith("user ") for line in lines)


def test_a_line_break_in_a_path_cannot_smuggle_a_setting() -> None:
    evil = Path("/broker\nallow_anonymous true")

    with pytest.raises(ValueError, match="line break"):
        mosquitto.configuration(evil, SERVER, None)


@pytest.mark.parametrize("name", ["a/b", "+", "#", "A", "", "a b", "a\nuser b"])
def test_a_name_that_would_widen_a_permission_is_a_bug(name: str) -> None:
    with pytest.raises(ValueError, match="topic level"):
        mosquitto.permissions([Grant(name, "board")])
    with pytest.raises(ValueError, match="topic level"):
        nats.configuration(FOLDER, SERVER, Admission((Grant("d-1", name),)))
