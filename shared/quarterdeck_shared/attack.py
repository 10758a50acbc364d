"""What a refusal looks like: the names that TUF and Uptane give to attacks.

A refusal says what was wrong; the attack that it looks like says what an operator
should suspect. Sources: TUF specification 1.0, section 1.5.2; Uptane Standard 2.1.0,
section 4.3.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from quarterdeck_shared.codes import Code


class Attack(StrEnum):
    """An attack on the way from the controller to a device."""

    ARBITRARY_SOFTWARE = "arbitrary_software"
    ROLLBACK = "rollback"
    FREEZE = "freeze"
    MIX_AND_MATCH = "mix_and_match"
    ENDLESS_DATA = "endless_data"
    SLOW_RETRIEVAL = "slow_retrieval"
    MISDIRECTION = "misdirection"  # meant for another device or class
    REPLAY = "replay"
    TAMPERING = "tampering"


_LOOKS_LIKE: Mapping[Code, Attack] = MappingProxyType(
    {
        Code.TOO_LARGE: Attack.ENDLESS_DATA,
        Code.METADATA_INVALID: Attack.ARBITRARY_SOFTWARE,
        Code.METADATA_ROLLBACK: Attack.ROLLBACK,
        Code.METADATA_EXPIRED: Attack.FREEZE,
        Code.METADATA_STALE: Attack.SLOW_RETRIEVAL,
        Code.TIME_INVALID: Attack.REPLAY,
        Code.ASSIGNMENT_UNSIGNED: Attack.ARBITRARY_SOFTWARE,
        Code.ASSIGNMENT_EXPIRED: Attack.FREEZE,
        Code.ASSIGNMENT_REPLAYED: Attack.REPLAY,
        Code.WRONG_DEVICE: Attack.MISDIRECTION,
        Code.WRONG_CLASS: Attack.MISDIRECTION,
        Code.TARGET_UNKNOWN: Attack.ARBITRARY_SOFTWARE,
        Code.TARGET_MISMATCH: Attack.MIX_AND_MATCH,
        Code.RELEASE_DOWNGRADE: Attack.ROLLBACK,
        Code.CHUNK_INVALID: Attack.TAMPERING,
        Code.ARTIFACT_INVALID: Attack.TAMPERING,
        Code.SEAL_INVALID: Attack.TAMPERING,
    }
)


def looks_like(code: Code) -> Attack | None:
    """Return the attack that a refusal with ``code`` looks like, or None."""
    return _LOOKS_LIKE.get(code)
