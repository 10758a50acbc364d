"""The agent's settings: one TOML file, written at enrolment.

A path is relative to the file, and may name variables of the environment as
``${NAME}``: a service manager tells in them where it put the credentials.
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Isa
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.explain import explain
from quarterdeck_shared.ids import ClassName, DeviceId

_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSettings(_Table):
    """Where the broker is, and who vouches for it."""

    host: str = Field(min_length=1, max_length=253)
    port: int = Field(ge=1, le=65535)
    ca: Path
    username: str | None = None
    password_file: Path | None = None


class IdentitySettings(_Table):
    """Where the device keeps who it is.

    Attributes:
        file: The private key and the certificate chain, one PEM file that the agent
            writes; ``identity.pem`` in the state folder unless named.
        key: A private key that is kept elsewhere, P-256, PEM; or the first key of the
            TPM, as OpenSSL's ``tpm2`` provider wrote it.
        tpm: Make keys in the TPM.
        openssl_conf: Configuration of OpenSSL that brings the TPM's provider; one that
            does comes with the agent.
    """

    file: Path | None = None
    key: Path | None = None
    tpm: bool = False
    openssl_conf: Path | None = None


class EnrolmentSettings(_Table):
    """What lets a machine ask for its first certificate; deleted when it has one.

    Attributes:
        claim: A certificate and its key that may do nothing but ask (PEM).
        token: The one-time token of this device.
    """

    claim: Path = Path("claim.pem")
    token: Path = Path("token")


class SourceSettings(_Table):
    """Where samples come from.

    Attributes:
        interval_s: Pause between two samples.
        repeat: Begin again when the last sample was taken.
    """

    kind: Literal["directory"] = "directory"
    path: Path
    interval_s: float = Field(default=1.0, ge=0, le=86_400)
    repeat: bool = True


class TelemetrySettings(_Table):
    """How long one window is."""

    period_s: float = Field(default=60.0, ge=0.2, le=86_400)


class RefreshSettings(_Table):
    """How a device keeps its signed metadata fresh.

    Attributes:
        spread_s: News is followed within this, each device at a moment of its own, so
            that a fleet does not ask at once.
    """

    spread_s: float = Field(default=300.0, ge=0, le=86_400)


class Settings(_Table):
    """Everything an agent is told.

    Attributes:
        state: The folder the agent keeps its slots and records in.
        simulate_isa: Pretend to be another kind of CPU; reported as simulated.
        root: The fleet's signed TUF root, brought along at enrolment.
    """

    device: DeviceId
    device_class: ClassName
    state: Path
    broker: BrokerSettings
    identity: IdentitySettings = IdentitySettings()
    enrolment: EnrolmentSettings = EnrolmentSettings()
    simulate_isa: tuple[Isa, ...] | None = None
    root: Path = Path("root.json")
    source: SourceSettings | None = None
    telemetry: TelemetrySettings = TelemetrySettings()
    refresh: RefreshSettings = RefreshSettings()

    @property
    def identity_file(self) -> Path:
        """Where the certificate is, and the key unless that is kept elsewhere."""
        return self.identity.file or self.state / "identity.pem"


def load_settings(path: Path) -> Settings:
    """Return the settings in ``path``; paths in it are relative to it.

    Raises:
        RejectedError: ``SETTINGS_INVALID`` naming the line that is wrong.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise invalid(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"{path} is not TOML: {error}") from error
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise invalid(f"{path}: {explain(error)}") from error
    return _resolved(settings, path.resolve().parent)


def endpoint(settings: Settings, certificate: Path, key: Path) -> Endpoint:
    """Return the broker as the bus wants it, for the holder of ``certificate``.

    Raises:
        RejectedError: ``SETTINGS_INVALID``: the password cannot be read.
    """
    broker, password = settings.broker, None
    if broker.password_file is not None:
        password = read(broker.password_file).decode().strip()
    return Endpoint(
        host=broker.host,
        port=broker.port,
        ca=broker.ca,
        certificate=certificate,
        key=key,
        username=broker.username,
        password=password,
    )


def check_trust(settings: Settings) -> None:
    """Check that what the device trusts from the start is there.

    Whether it can be trusted is judged where it is used; this finds a wrong file.

    Raises:
        RejectedError: ``SETTINGS_INVALID``.
    """
    if b"-----BEGIN CERTIFICATE-----" not in read(settings.broker.ca):
        raise invalid(f"{settings.broker.ca} holds no certificate")
    try:
        is_root = json.loads(read(settings.root))["signed"]["_type"] == "root"
    except (ValueError, KeyError, TypeError):
        is_root = False
    if not is_root:
        raise invalid(f"{settings.root} is no signed root of a fleet")


def _resolved(settings: Settings, folder: Path) -> Settings:
    """Return the settings with every path absolute."""
    update: dict[str, object] = {
        name: _places(getattr(settings, name), folder)
        for name in ("broker", "identity", "enrolment", "source")
    }
    update |= {
        "state": _place(settings.state, folder),
        "root": _place(settings.root, folder),
    }
    return settings.model_copy(update=update)


def _places(table: _Table | None, folder: Path) -> _Table | None:
    if table is None:
        return None
    paths = {
        name: _place(value, folder) for name, value in table if isinstance(value, Path)
    }
    return table.model_copy(update=paths)


def _place(path: Path, folder: Path) -> Path:
    return folder / _VARIABLE.sub(_variable, str(path))


def _variable(found: re.Match[str]) -> str:
    value = os.environ.get(found[1])
    if not value:
        raise invalid(f"{found.string}: {found[1]} is not set in the environment")
    return value


def read(path: Path) -> bytes:
    """Return a file that the settings name.

    Raises:
        RejectedError: ``SETTINGS_INVALID``.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(f"{path}: {error.strerror}") from error


def invalid(detail: str) -> RejectedError:
    """Return the error that says which setting cannot be used."""
    return RejectedError(Code.SETTINGS_INVALID, detail)
