"""mosquitto as the fleet's broker: the common single broker on premises.

The whole subject of a certificate becomes the name of the user (``identity.py``), so
that one generation of a device can lose its permissions while the next has them: at
once, in live sessions too. mosquitto lets in whoever its authority vouches for and is
on no revocation list, grants every subscription, and then delivers and takes nothing
that the list of permissions does not allow.

Client ids are not tied to certificates: that would make them known to all, and one
claim certificate could not be shared by a batch of machines. They are secrets instead,
128 random bits drawn at every start, without which no session can be taken over.
"""

import functools
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from quarterdeck_controller.broker import identity
from quarterdeck_controller.broker.embedded import EmbeddedBroker, Flavour
from quarterdeck_controller.broker.port import Admission
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.transfer import MAX_FRAME_BYTES

CONFIG = "mosquitto.conf"
PERMISSIONS = "permissions.acl"
REVOCATIONS = "revocations.pem"
LOG = "mosquitto.log"


def configuration(
    folder: Path, server: Endpoint, user: str | None, *, revocations: bool = False
) -> str:
    """Return the text of mosquitto's configuration.

    Args:
        folder: Where its files are.
        server: Where it listens, and its certificate.
        revocations: Whether there is a list of revoked certificates. A listener that
            was begun without one takes it up only when mosquitto is started anew.
        user: Whom it runs as; started by root it would become a user of its own,
            who may not read the files.
    """
    lines = (
        *((f"user {user}",) if user else ()),
        f"listener {server.port} {server.host}",
        f"cafile {server.ca}",
        f"certfile {server.certificate}",
        f"keyfile {server.key}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_subject_as_username true",
        "allow_anonymous false",
        f"acl_file {folder / PERMISSIONS}",
        *((f"crlfile {folder / REVOCATIONS}",) if revocations else ()),
        f"message_size_limit {2 * MAX_FRAME_BYTES}",
        "set_tcp_nodelay true",
        # the default of 1000 drops acknowledged messages to a slow reader silently
        "max_queued_messages 0",
        # nobody of ours leaves a session behind; a hostile device could, any number
        "persistent_client_expiration 1h",
        # its snapshots do not survive a kill; the controller publishes state again
        "persistence false",
        "sys_interval 0",
        f"log_dest file {folder / LOG}",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",  # that it reads its files again
        # client ids are secrets, and such lines would fill a disk
        "connection_messages false",
    )
    if any("\n" in line for line in lines):
        raise ValueError("a path with a line break cannot be configured")
    return "\n".join(lines) + "\n"


def permissions(admission: Admission) -> str:
    """Return the text of mosquitto's list of permissions; who is not in it has none."""
    lines = [
        f"user {identity.controller_subject()}",
        f"topic readwrite {topics.ROOT}/#",
    ]
    for grant in admission.devices:
        publishes = topics.device_publishes(grant.device)
        subscribes = topics.device_subscribes(grant.device, grant.device_class)
        for named in identity.device_subjects(grant):
            lines += _user(named, publishes, subscribes)
    for claim in admission.claims:
        publishes = topics.claim_publishes(claim)
        subscribes = topics.claim_subscribes(claim)
        lines += _user(identity.claim_subject(claim), publishes, subscribes)
    return "\n".join(lines) + "\n"


def _user(
    named: str, publishes: Iterable[str], subscribes: Iterable[str]
) -> Iterator[str]:
    yield from ("", f"user {named}")
    yield from (f"topic write {it}" for it in publishes)
    yield from (f"topic read {it}" for it in subscribes)


def find_program(search: str | None = None) -> Path:
    """Return the mosquitto of the system, or in the folders that ``search`` lists.

    Raises:
        RejectedError: ``BROKER_MISSING``, with the command that installs it.
    """
    usual = os.environ.get("PATH", "") + ":/usr/sbin"  # not in everybody's PATH
    found = shutil.which("mosquitto", path=usual if search is None else search)
    if found is None:
        detail = "mosquitto was not found; install it: sudo apt-get install mosquitto"
        raise RejectedError(Code.BROKER_MISSING, detail)
    return Path(found)


def _files(folder: Path, server: Endpoint, admission: Admission) -> Mapping[str, str]:
    user = "root" if os.geteuid() == 0 else None
    lists = admission.revocations
    config = configuration(folder, server, user, revocations=bool(lists))
    given = {REVOCATIONS: lists.decode("ascii")} if lists else {}
    return {CONFIG: config, PERMISSIONS: permissions(admission), **given}


MosquittoBroker = functools.partial(
    EmbeddedBroker,
    Flavour(
        find_program=find_program,
        config=CONFIG,
        log=LOG,
        files=_files,
        reloads=re.compile(rb"^\d+: Reloading config\.$", re.MULTILINE),
        restarts=True,
    ),
)
"""A mosquitto of our own: call it with what ``EmbeddedBroker`` takes."""
