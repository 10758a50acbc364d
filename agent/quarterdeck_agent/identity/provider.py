"""Whether this process must have OpenSSL use the TPM, which is decided once.

OpenSSL reads which providers it has when it is loaded, and one that has the TPM's
cannot use a key from a file: sessions of a claim need a process without it, sessions of
a device whose key is in the TPM one with it.
"""

import os
from collections.abc import Mapping

from quarterdeck_agent.identity.openssl import TPM_CONF
from quarterdeck_agent.identity.pem import TPM_KEY
from quarterdeck_agent.settings import Settings

_CONF = "OPENSSL_CONF"


def has_provider(settings: Settings, environment: Mapping[str, str]) -> bool:
    """Return whether OpenSSL has the TPM's provider where this is the environment."""
    return environment.get(_CONF) in {_conf(settings), str(TPM_CONF)}


def needs_provider(settings: Settings) -> bool:
    """Return whether the key of the certificate in use is one of the TPM."""
    label = f"-----BEGIN {TPM_KEY}-----".encode()
    try:
        return label in settings.identity_file.read_bytes()
    except OSError:
        return False


def other_environment(
    settings: Settings, *, provider: bool
) -> Mapping[str, str] | None:
    """Return the environment to begin anew with; None when this one is right.

    A configuration of OpenSSL that is neither ours nor named in the settings is left:
    whoever named it may have brought the provider in it.
    """
    given = dict(os.environ)
    if has_provider(settings, given) == provider:
        return None
    if not provider:
        return {name: value for name, value in given.items() if name != _CONF}
    named = settings.identity.openssl_conf is not None
    return None if _CONF in given and not named else {**given, _CONF: _conf(settings)}


def _conf(settings: Settings) -> str:
    return str(settings.identity.openssl_conf or TPM_CONF)
