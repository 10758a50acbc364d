"""What each role of an operator may do (pure).

Roles include those below them: a releaser may do all that an operator may. Every
command names its act, and an act names the lowest role that may do it.
"""

from enum import Enum, StrEnum


class Role(StrEnum):
    """A role, from the least to the most powerful."""

    VIEWER = "viewer"  # sees everything, changes nothing
    OPERATOR = "operator"  # devices and rollouts
    RELEASER = "releaser"  # what may run: releases, provenance
    ADMIN = "admin"  # keys, operators, settings


class Act(Enum):
    """Something that can be asked of the controller; the value names its role too."""

    SEE = ("see", Role.VIEWER)
    DEVICE_ENROL = ("device.enrol", Role.OPERATOR)
    DEVICE_REVOKE = ("device.revoke", Role.OPERATOR)
    DEVICE_REPLACE = ("device.replace", Role.OPERATOR)
    ROLLOUT_CREATE = ("rollout.create", Role.OPERATOR)
    ROLLOUT_CHANGE = ("rollout.change", Role.OPERATOR)
    RELEASE_CREATE = ("release.create", Role.RELEASER)
    RELEASE_REVOKE = ("release.revoke", Role.RELEASER)
    RELEASE_DOWNGRADE = ("release.permit-downgrade", Role.RELEASER)
    MODEL_ATTEST = ("model.attest", Role.RELEASER)
    KEY_CHANGE = ("key.change", Role.ADMIN)
    OPERATOR_CHANGE = ("operator.change", Role.ADMIN)
    AUDIT_ACCEPT = ("audit.accept", Role.ADMIN)
    OPERATOR_RECOVER = ("operator.recover", Role.ADMIN)
    SERVE = ("serve", Role.ADMIN)

    @property
    def word(self) -> str:
        """Its name in the audit log."""
        return self.value[0]

    @property
    def role(self) -> Role:
        """The lowest role that may do it."""
        return self.value[1]


OUTSIDE = frozenset(
    {
        Act.RELEASE_CREATE,
        Act.RELEASE_REVOKE,
        Act.RELEASE_DOWNGRADE,
        Act.MODEL_ATTEST,
        Act.KEY_CHANGE,
        Act.SERVE,
    }
)
"""Acts whose effect is not in the database, and cannot be committed with a record."""

OWNERS = frozenset({Act.SERVE, Act.OPERATOR_RECOVER})
"""Acts that whoever owns the home's files may do without a credential. To serve needs
the keys that lie there and adds nothing to them, and a token that ran out must not keep
a fleet down; to recover is for those whom every credential has failed."""

_ORDER = tuple(Role)


def permits(role: Role, act: Act) -> bool:
    """Return whether ``role`` may do ``act``."""
    return _ORDER.index(role) >= _ORDER.index(act.role)
