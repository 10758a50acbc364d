"""mosquitto as the fleet's broker: the common single broker on premises.

The common name of a certificate becomes the user name and the client id, so that no
device can take over the session of another. mosquitto grants every subscription and
then delivers nothing that the list of permissions does not allow.
"""

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from quarterdeck_controller.broker.embedded import EmbeddedBroker, Flavour
from quarterdeck_controller.broker.port import CONTROLLER, Admission, Grant
from quarterdeck_shared import topics
from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.transfer import MAX_FRAME_BYTES

CONFIG = "mosquitto.conf"
PERMISSIONS = "permissions.acl"
LOG = "mosquitto.log"


def configuration(folder: Path, server: Endpoint, user: str | None) -> str:
    """Return the text of mosquitto's configuration.

    Args:
        folder: Where its files are.
        server: Where it listens, and its certificate.
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
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"acl_file {folder / PERMISSIONS}",
        f"message_size_limit {2 * MAX_FRAME_BYTES}",
        "set_tcp_nodelay true",
        # the default of 1000 drops acknowledged messages to a slow reader silently
        "max_queued_messages 0",
        # its snapshots do not survive a kill; the controller publishes state again
        "persistence false",
        "sys_interval 0",
        f"log_dest file {folder / LOG}",
        "log_type error",
        "log_type warning",
        "log_type notice",
    )
    if any("\n" in line for line in lines):
        raise ValueError("a path with a line break cannot be configured")
    return "\n".join(lines) + "\n"


def permissions(devices: Sequence[Grant]) -> str:
    """Return the text of mosquitto's list of permissions; who is not in it has none."""
    lines = [f"user {CONTROLLER}", f"topic readwrite {topics.ROOT}/#"]
    for grant in devices:
        reads = topics.device_subscribes(grant.device, grant.device_class)
        lines += ["", f"user {grant.device}"]
        lines += [f"topic write {it}" for it in topics.device_publishes(grant.device)]
        lines += [f"topic read {it}" for it in reads]
    return "\n".join(lines) + "\n"


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
    return {
        CONFIG: configuration(folder, server, user),
        PERMISSIONS: permissions(admission.devices),
    }


MosquittoBroker = functools.partial(
    EmbeddedBroker,
    Flavour(find_program=find_program, config=CONFIG, log=LOG, files=_files),
)
"""A mosquitto of our own: call it with what ``EmbeddedBroker`` takes."""
