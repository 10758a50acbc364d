"""The errors both ends share, by what the caller can do about them.

    QuarterdeckError
    ├── TransientError     try again later: the broker is away, the disk was busy
    └── RejectedError      refuse: the input is wrong or hostile; carries a code

A bug is a ``RuntimeError`` or a ``ValueError`` and is never caught by family.
"""

from quarterdeck_shared.codes import Code


class QuarterdeckError(Exception):
    """Something a person or a caller can act on.

    Attributes:
        code: The stable, machine-readable reason.
        detail: What was seen, with the values that disagreed.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class TransientError(QuarterdeckError):
    """It may work later without anybody doing anything."""


class RejectedError(QuarterdeckError):
    """It will never work as it is: the input must change."""
