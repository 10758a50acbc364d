"""The agent's settings: one TOML file, written at enrolment."""

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


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSettings(_Table):
    """Where the broker is, and the device's identity towards it."""

    host: str = Field(min_length=1, max_length=253)
    port: int = Field(ge=1, le=65535)
    ca: Path
    certificate: Path
    key: Path
    username: str | None = None
    password_file: Path | None = None


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
    simulate_isa: tuple[Isa, ...] | None = None
    root: Path = Path("root.json")
    source: SourceSettings | None = None
    telemetry: TelemetrySettings = TelemetrySettings()


def load_settings(path: Path) -> Settings:
    """Return the settings in ``path``; paths in it are relative to it.

    Raises:
        RejectedError: ``SETTINGS_INVALID`` naming the line that is wrong.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise invalid(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise invalid(f"{path} is not TOML: {error}") from error
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise invalid(f"{path}: {explain(error)}") from error
    return _resolved(settings, path.resolve().parent)


def endpoint(settings: Settings) -> Endpoint:
    """Return the broker as the bus wants it.

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
        certificate=broker.certificate,
        key=broker.key,
        username=broker.username,
        password=password,
    )


def _resolved(settings: Settings, folder: Path) -> Settings:
    """Return the settings with every path absolute."""
    broker, source = settings.broker, settings.source
    files = {
        name: folder / getattr(broker, name) for name in ("ca", "certificate", "key")
    }
    if broker.password_file is not None:
        files["password_file"] = folder / broker.password_file
    update: dict[str, object] = {
        "broker": broker.model_copy(update=files),
        "state": folder / settings.state,
        "root": folder / settings.root,
    }
    if source is not None:
        update["source"] = source.model_copy(update={"path": folder / source.path})
    return settings.model_copy(update=update)


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
