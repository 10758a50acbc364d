"""The fleet home: one folder with everything a controller keeps.

Only paths and settings are here; what the folders hold belongs to the packages that
write them.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.explain import explain
from quarterdeck_shared.ids import ClassName
from quarterdeck_shared.index import DEFAULT_CHUNK_BYTES


class BrokerSettings(BaseModel):
    """Which broker the fleet meets at.

    Attributes:
        kind: ``nats`` and ``mosquitto`` are started and stopped by the controller;
            ``external`` is somebody else's, with the configuration we generate.
        host: Address that devices reach and that the broker's certificate names.
        port: MQTT over TLS.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nats", "mosquitto", "external"] = "nats"
    host: str = "127.0.0.1"
    port: int = Field(default=18883, ge=1, le=65535)
    username: str | None = None
    password_file: Path | None = None


class Settings(BaseModel):
    """``settings.toml``.

    Attributes:
        fleet: Name of the fleet, as in its certificates.
        classes: Device classes that have a signing role.
        chunk_bytes: Size of the chunks of new releases.
        transfer_bytes_s: Most bytes of chunks published a second; 0 is no limit.
        assignment_days: How long a signed assignment may be acted on.
        certificate_days: How long a device's certificate is valid; it renews itself
            when two thirds are over.
        test: Keys that belong offline may be in this home. The controller refuses to
            start with them otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    fleet: str = Field(min_length=1, max_length=64)
    classes: tuple[ClassName, ...] = Field(min_length=1)
    broker: BrokerSettings = BrokerSettings()
    chunk_bytes: int = Field(default=DEFAULT_CHUNK_BYTES, ge=1024, le=1 << 20)
    transfer_bytes_s: int = Field(default=0, ge=0)
    assignment_days: float = Field(default=14, gt=0, le=365)
    certificate_days: float = Field(default=30, gt=0, le=365)
    test: bool = False


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything is. Paths only: nothing is read until asked for."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the fleet home at ``path``.

        Raises:
            RejectedError: ``HOME_MISSING`` when there is none.
        """
        home = cls(path.absolute())
        if not home.settings_file.is_file():
            raise RejectedError(Code.HOME_MISSING, f"{home.path} is not a fleet home")
        return home

    def settings(self) -> Settings:
        """Return the settings.

        Raises:
            RejectedError: ``HOME_INVALID`` when they make no sense.
        """
        try:
            text = self.settings_file.read_text("utf-8")
            return Settings.model_validate(tomllib.loads(text))
        except ValidationError as error:
            raise self._invalid(explain(error)) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._invalid(f"it is not TOML: {error}") from error
        except OSError as error:
            raise self._invalid(str(error.strerror)) from error

    def _invalid(self, why: str) -> RejectedError:
        return RejectedError(Code.HOME_INVALID, f"{self.settings_file}: {why}")

    @property
    def settings_file(self) -> Path:
        """The fleet's settings."""
        return self.path / "settings.toml"

    @property
    def keys(self) -> Path:
        """Signing keys of the TUF roles."""
        return self.path / "keys"

    @property
    def authority(self) -> Path:
        """The certificate authority and what it issued to controller and broker."""
        return self.path / "authority"

    @property
    def repository(self) -> Path:
        """Signed metadata and indexes, as devices fetch them."""
        return self.path / "repository"

    @property
    def parts(self) -> Path:
        """Parts of artifacts, each named by its sha256."""
        return self.path / "parts"

    @property
    def requests(self) -> Path:
        """Changes of signed metadata that wait for signatures from elsewhere."""
        return self.path / "requests"

    @property
    def seals(self) -> Path:
        """Keys that open sealed artifacts."""
        return self.path / "seals"

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.path / "quarterdeck.db"

    @property
    def broker(self) -> Path:
        """The broker's generated configuration and its own store."""
        return self.path / "broker"

    @property
    def logs(self) -> Path:
        """Logs of the controller and of the broker."""
        return self.path / "logs"
