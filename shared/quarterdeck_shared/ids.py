"""The names of things, and what a valid name looks like.

Names become topic levels, file names and certificate subjects, so none may
hold a character that means something to a broker, a path or an ACL pattern.
"""

import re
from typing import Annotated

from pydantic import StringConstraints

NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"

DeviceId = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A device: lower case letters, digits and inner hyphens, 64 at most."""

ClassName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A device class, such as ``gateway-x86-vnni``."""

ModelName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A model, such as ``exercises``."""

ReleaseId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}@[0-9]{1,9}$")]
"""A release: ``<model>@<version>``."""

Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
"""A sha256 digest as 64 lower-case hex digits."""

_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Return whether ``text`` may name a device, a class or a model."""
    return bool(_NAME.fullmatch(text))


def release_id(model: str, version: int) -> str:
    """Return the id of version ``version`` of ``model``."""
    return f"{model}@{version}"
