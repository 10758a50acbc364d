"""The tables. A change here raises ``SCHEMA_VERSION``."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.engine import Dialect

from quarterdeck_shared.telemetry.window import COUNTERS

SCHEMA_VERSION = 2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> int | None:
        """Return the microseconds of ``value``."""
        del dialect
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(
        self, value: int | None, dialect: Dialect
    ) -> datetime | None:
        """Return the moment of ``value`` microseconds."""
        del dialect
        return None if value is None else _EPOCH + value * _MICROSECOND


metadata = MetaData()

devices = Table(
    "devices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("device_class", Text, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("enrolled_at", Moment, nullable=False),
    Column("seal_key", LargeBinary),
    Column("revoked_at", Moment),
    Column("revoked_why", Text, nullable=False, server_default=""),
)

claims = Table(
    "claims",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("serial", Text, nullable=False),  # hexadecimal, of its certificate
)

tokens = Table(
    "tokens",
    metadata,
    Column("digest", Text, primary_key=True),  # sha256 of the token
    Column("device", Text, ForeignKey(devices.c.id), nullable=False),
    Column("claim", Text, ForeignKey(claims.c.name), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("used_at", Moment),
    Column("serial", Text),  # of the certificate that was given for it
    Column("withdrawn_at", Moment),
    Index("tokens_by_device", "device"),
    Index("tokens_by_claim", "claim"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", Text, primary_key=True),  # hexadecimal
    Column("device", Text, ForeignKey(devices.c.id), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("public_key", LargeBinary, nullable=False),  # SubjectPublicKeyInfo, DER
    Column("not_before", Moment, nullable=False),
    Column("not_after", Moment, nullable=False),
    Column("certificate", LargeBinary, nullable=False),  # DER
    Column("used_at", Moment),  # when a device was first seen to have come with it
    Column("retired_at", Moment),  # when one after it was seen in use
    Column("revoked_at", Moment),
    Column("revoked_why", Text, nullable=False, server_default=""),
    Index("certificates_by_device", "device", "generation", unique=True),
    Index("certificates_by_key", "public_key"),
    Index(
        "certificates_unused",
        "device",
        sqlite_where=text(
            "used_at IS NULL AND retired_at IS NULL AND revoked_at IS NULL"
        ),
    ),
)

revisions = Table(
    "revisions",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),  # rises with every change
)

presence = Table(
    "presence",
    metadata,
    Column("device", Text, ForeignKey(devices.c.id), primary_key=True),
    Column("boot", BigInteger, nullable=False),
    Column("connection", BigInteger, nullable=False),
    Column("online", Boolean, nullable=False),
    Column("last_seen", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("former_boot", BigInteger),
    Column("former_connection", BigInteger, nullable=False),
    Column("alternated_at", Moment),
    Column("client", Text, nullable=False, server_default=""),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("returns", Integer, nullable=False, server_default="0"),
)

refusals = Table(
    "refusals",
    metadata,
    Column("device", Text, ForeignKey(devices.c.id), primary_key=True),
    Column("boot", BigInteger, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("received_at", Moment, nullable=False),
    Column("code", Text, nullable=False),
    Column("attack", Text),
    Column("body", LargeBinary, nullable=False),
    Index("refusals_by_time", "device", "received_at"),
)

reported = Table(
    "reported",
    metadata,
    Column("device", Text, ForeignKey(devices.c.id), primary_key=True),
    Column("boot", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("active_release", Text),
    Column("active_digest", Text),
    Column("previous_release", Text),
    Column("previous_digest", Text),
    Column("update_sequence", BigInteger, nullable=False),
    Column("update_digest", Text),
    Column("outcome", Text),
    Column("code", Text),
    Column("detail", Text, nullable=False),
    Column("capabilities", Text, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("settled_at", Moment, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("device", Text, ForeignKey(devices.c.id), primary_key=True),
    Column("boot", BigInteger, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("received_at", Moment, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("events_by_time", "device", "received_at"),
)

windows = Table(
    "windows",
    metadata,
    Column("device", Text, ForeignKey(devices.c.id), primary_key=True),
    Column("boot", BigInteger, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("artifact", Text, nullable=False),
    Column("started", Moment, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in COUNTERS),
    Column("latency", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("windows_by_time", "started"),
    Index("windows_by_artifact", "artifact", "device", "started"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("release", Text, nullable=False),
    Column("selector", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("wave", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("wave_started_at", Moment),
    Column("soak_from", Moment),
    Column("looks", Integer, nullable=False),
    Column("resumed_at", Moment),
    Column("reason", Text, nullable=False),
)

assignments = Table(
    "assignments",
    metadata,
    Column("device", Text, ForeignKey(devices.c.id), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("device_class", Text, nullable=False),
    Column("release", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("issued", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("signed_by", Text, nullable=False),  # ids of the director's keys
    Column("reason", Text, nullable=False),
    Column("probation", Text, nullable=False),
    Column("rollout", Integer, ForeignKey(rollouts.c.id)),
    Column("published", Boolean, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Index("assignments_unpublished", "device", sqlite_where=text("published = 0")),
)

members = Table(
    "rollout_devices",
    metadata,
    Column("rollout", Integer, ForeignKey(rollouts.c.id), primary_key=True),
    Column("device", Text, ForeignKey(devices.c.id), primary_key=True),
    Column("wave", Integer, nullable=False),
    Column("target_digest", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("assigned_at", Moment, nullable=False),
    Column("previous_release", Text),
    Column("previous_target", Text),
    Column("undo_sequence", BigInteger),
)

operators = Table(
    "operators",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("token_digest", Text),  # sha256 of the token
    Column("certificate", Text),  # sha256 of the certificate, DER
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Index("operators_by_token", "token_digest", unique=True),
)

audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("actor", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON of the whole entry
    Column("digest", Text, nullable=False),  # sha256 of the body; names the one before
    Index("audit_by_subject", "subject", "number"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Moment, nullable=False),
    Column("rollout", Integer, ForeignKey(rollouts.c.id)),
    Column("what", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("numbers", JSON, nullable=False),
    Index("decisions_by_rollout", "rollout", "id"),
)
