"""Write the folder with which a machine becomes a device of this fleet.

No private key of a device is in it: the machine makes its own, and asks for its
certificate with the token and the claim certificate that are in the folder.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.identity.authority import check_device_name
from quarterdeck_controller.identity.tokens import Invitation
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code, sync_folder, write_durable
from quarterdeck_shared.errors import RejectedError


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent is told beyond its identity.

    Attributes:
        source: Folder of recorded samples to run the model on; None writes the
            section commented out.
        interval_s: Pause between two samples.
        repeat: Begin again at the end of the folder.
        simulate_isa: Pretend to be a machine with only these instruction sets;
            reported as simulated.
        telemetry_period_s: Length of one telemetry window.
    """

    source: Path | None
    interval_s: float
    repeat: bool
    simulate_isa: tuple[str, ...]
    telemetry_period_s: float


CERTIFICATE_AUTHORITY, ROOT = "ca.pem", "root.json"
CLAIM, TOKEN, IDENTITY = "claim.pem", "token", "state/identity.pem"


def write_bundle(
    home: Home,
    device_id: str,
    device_class: str,
    out: Path,
    clock: Clock,
    *,
    invitation: Invitation | None = None,
    source: Path | None = None,
    interval_s: float = 0.1,
    repeat: bool = True,
    simulate_isa: Sequence[str] = (),
    telemetry_period_s: float = 60,
) -> Path:
    """Write the bundle of one device to the folder ``out`` and return it.

    It holds ``agent.toml``, ``ca.pem``, ``root.json`` and, when the device is invited,
    ``claim.pem`` and ``token``, and is complete or not there. Without an invitation it
    is for a machine that has its identity already. What the options mean is told at
    ``AgentOptions``.

    Raises:
        RejectedError: ``CONFLICT`` when ``out`` exists and is not an empty folder,
            ``DISK_FULL`` or ``DISK_FAILED`` when it cannot be written, ``NOT_FOUND``
            for a class without a signing role, ``NAME_INVALID`` for a name that no
            device may have.
    """
    settings, out = home.settings(), out.absolute()
    check_device_name(device_id)
    _check(out, device_class, settings)
    options = AgentOptions(
        source, interval_s, repeat, tuple(simulate_isa), telemetry_period_s
    )
    files = {
        CERTIFICATE_AUTHORITY: (home.authority / "root.pem").read_bytes(),
        ROOT: Repository(home, clock).newest_root(),
        "agent.toml": agent_toml(device_id, device_class, settings, options).encode(),
    }
    write_folder(out, files, _secrets(invitation) if invitation else {})
    return out


def write_folder(
    out: Path, files: Mapping[str, bytes], secret: Mapping[str, bytes]
) -> None:
    """Write the folder ``out``, all of it or nothing; only the owner reads secrets.

    Raises:
        RejectedError: ``DISK_FULL`` or ``DISK_FAILED``.
    """
    beside = out.with_name(f".{out.name}.new")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True, mode=0o700)
        for name, data in files.items():
            write_durable(beside / name, data)
        for name, data in secret.items():
            write_durable(beside / name, data, mode=0o600)
        beside.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise RejectedError(
            disk_code(error),
            f"{out} cannot be written: {error.strerror}",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_secrets(folder: Path, invitation: Invitation) -> None:
    """Write token and claim alone into ``folder``, over those that were there.

    Raises:
        RejectedError: ``DISK_FULL`` or ``DISK_FAILED``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, data in _secrets(invitation).items():
            write_durable(folder / name, data, mode=0o600)
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{folder} cannot be written: {error.strerror}"
        ) from error


def discard(folder: Path) -> None:
    """Remove what ``write_folder`` has written, when it cannot be used after all."""
    shutil.rmtree(folder, ignore_errors=True)


def _secrets(invitation: Invitation) -> dict[str, bytes]:
    return {CLAIM: invitation.claim_pem, TOKEN: f"{invitation.token}\n".encode()}


def agent_toml(
    device_id: str, device_class: str, settings: Settings, options: AgentOptions
) -> str:
    """Return the agent's settings, with a comment for whoever reads them."""
    broker = settings.broker
    lines = [
        "# Settings of this device's agent. Paths are relative to this file.",
        f"device = {_quoted(device_id)}",
        f"device_class = {_quoted(device_class)}",
        "",
        "# What the agent keeps: the models, what it has accepted, unsent telemetry.",
        'state = "state"',
        "",
        "# The signed root that this device trusts; newer ones are followed from it.",
        f"root = {_quoted(ROOT)}",
        "",
        *_simulation(options.simulate_isa),
        "[broker]",
        f"host = {_quoted(broker.host)}",
        f"port = {broker.port}",
        f"ca = {_quoted(CERTIFICATE_AUTHORITY)}",
        "# For a broker that asks for a password beside the certificate.",
        '# username = ""',
        '# password_file = ""',
        "",
        "[identity]",
        "# The private key, which this device makes itself, and its certificate.",
        f"file = {_quoted(IDENTITY)}",
        "# For a key that stays elsewhere, such as in a TPM.",
        '# key = ""',
        "",
        "[enrolment]",
        "# With these the agent asks for its first certificate; then it deletes them.",
        f"claim = {_quoted(CLAIM)}",
        f"token = {_quoted(TOKEN)}",
        "",
        *_source(options),
        "",
        "[telemetry]",
        "# Length of one window, in seconds.",
        f"period_s = {options.telemetry_period_s:g}",
    ]
    return "\n".join(lines) + "\n"


def check_folder(out: Path) -> None:
    """Refuse a folder that something is in.

    Raises:
        RejectedError: ``CONFLICT``.
    """
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise RejectedError(
            Code.CONFLICT, f"{out} exists and is not an empty folder; name another"
        )


def _check(out: Path, device_class: str, settings: Settings) -> None:
    if device_class not in settings.classes:
        raise RejectedError(
            Code.NOT_FOUND,
            f"class {device_class} has no signing role in this fleet; "
            f"these have: {', '.join(settings.classes)}",
        )
    check_folder(out)


def _simulation(isa: Sequence[str]) -> list[str]:
    if not isa:
        return []
    return [
        "# Pretend to be a machine with only these; every report says so.",
        f"simulate_isa = [{', '.join(_quoted(name) for name in isa)}]",
        "",
    ]


def _source(options: AgentOptions) -> list[str]:
    path = "samples" if options.source is None else str(options.source.absolute())
    lines = [
        "[source]",
        'kind = "directory"',
        f"path = {_quoted(path)}",
        f"interval_s = {options.interval_s:g}",
        f"repeat = {str(options.repeat).lower()}",
    ]
    if options.source is None:
        lines = [f"# {line}" for line in lines]
    told = "# Recorded samples to run the model on: .npy or .npz files, labels.csv."
    return [told, *lines]


def _quoted(text: str) -> str:
    # A JSON string of printable characters is a TOML basic string too.
    return json.dumps(text).replace("\x7f", "\\u007f")
