"""The text of the brokers' configurations and permissions."""

import json
from pathlib import Path

import pytest

from quarterdeck_controller.broker import mosquitto, nats
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_shared.bus.port import Endpoint

FOLDER = Path("/fleet home/broker")
SERVER = Endpoint("127.0.0.1", 18883, Path("/ca"), Path("/cert"), Path('/a "key"'))


GRANT = Grant("d-1", "board", (2, 3))
PUBLISHES = (
    "state",
    "reported",
    "event",
    "telemetry",
    "metadata",
    "need",
    "certificate",
    "refusal",
)


def test_nats_gives_each_generation_its_own_topics_and_no_others() -> None:
    text = nats.configuration(FOLDER, SERVER, Admission((GRANT,)))

    controller, *devices = json.loads(text)["authorization"]["users"]
    only = {"allowed_connection_types": ["MQTT"]}
    assert controller == {"user": "CN=controller", **only}
    assert devices == [
        {
            **only,
            "user": f"urn:quarterdeck:device:board:d-1:{generation}",
            "permissions": {
                "publish": [f"qd.1.device.d-1.up.{it}" for it in PUBLISHES],
                "subscribe": [
                    "qd.1.device.d-1.down.>",
                    "qd.1.device.d-1.down",
                    "qd.1.class.board.chunk.*",
                    "qd.1.controller.state",
                    "qd.1.metadata.timestamp",
                ],
            },
        }
        for generation in (2, 3)
    ]


def test_nats_lets_a_claim_enrol_and_nothing_else() -> None:
    text = nats.configuration(FOLDER, SERVER, Admission(claims=("claim-line-7",)))

    assert json.loads(text)["authorization"]["users"][1:] == [
        {
            "user": "CN=claim-line-7",
            "allowed_connection_types": ["MQTT"],
            "permissions": {
                "publish": ["qd.1.enrol.claim-line-7.*.request"],
                "subscribe": ["qd.1.enrol.claim-line-7.*.reply"],
            },
        }
    ]


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


def test_mosquitto_names_each_generation_and_gives_nothing_to_others() -> None:
    text = mosquitto.permissions(Admission((GRANT,), ("claim-line-7",)))

    device = [
        *(f"topic write qd/1/device/d-1/up/{it}" for it in PUBLISHES),
        "topic read qd/1/device/d-1/down/#",
        "topic read qd/1/class/board/chunk/+",
        "topic read qd/1/controller/state",
        "topic read qd/1/metadata/timestamp",
        "",
    ]
    assert text.splitlines() == [
        "user CN=controller",
        "topic readwrite qd/1/#",
        "",
        "user serialNumber=2,CN=d-1,OU=board",
        *device,
        "user serialNumber=3,CN=d-1,OU=board",
        *device,
        "user CN=claim-line-7",
        "topic write qd/1/enrol/claim-line-7/+/request",
        "topic read qd/1/enrol/claim-line-7/+/reply",
    ]


def test_mosquitto_takes_the_user_from_the_whole_subject() -> None:
    lines = mosquitto.configuration(FOLDER, SERVER, None).splitlines()

    assert "listener 18883 127.0.0.1" in lines
    assert "require_certificate true" in lines
    assert "use_subject_as_username true" in lines
    assert "allow_anonymous false" in lines
    assert "connection_messages false" in lines
    assert "persistent_client_expiration 1h" in lines
    assert not any(line.startswith(("user ", "crlfile ")) for line in lines)


def test_mosquitto_reads_a_list_of_revocations_when_there_is_one() -> None:
    text = mosquitto.configuration(FOLDER, SERVER, None, revocations=True)

    assert "crlfile /fleet home/broker/revocations.pem" in text.splitlines()


def test_a_line_break_in_a_path_cannot_smuggle_a_setting() -> None:
    evil = Path("/broker\nallow_anonymous true")

    with pytest.raises(ValueError, match="line break"):
        mosquitto.configuration(evil, SERVER, None)


@pytest.mark.parametrize(
    "admission",
    [
        *(
            Admission((Grant(name, "board"),))
            for name in ("a/b", "+", "#", "A", "", "a b", "a\nuser b", "a,CN=b")
        ),
        Admission((Grant("d-1", "a/b"),)),
        Admission((Grant("controller", "board"),)),
        Admission((Grant("claim-x", "board"),)),
        *(Admission(claims=(it,)) for it in ("controller", "claim-+", "d-1", "claim-")),
    ],
)
def test_a_name_that_would_widen_a_permission_is_a_bug(admission: Admission) -> None:
    with pytest.raises(ValueError, match=r"topic level|may not name"):
        mosquitto.permissions(admission)
    with pytest.raises(ValueError, match=r"topic level|may not name"):
        nats.configuration(FOLDER, SERVER, admission)
