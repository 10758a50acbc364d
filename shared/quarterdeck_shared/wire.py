"""How JSON messages are bounded, checked and written."""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_JSON_BYTES = 64 * 1024


class Wire(BaseModel):
    """A message or file that the two ends exchange.

    Unknown fields are refused: a newer sender must raise the version, so that an
    older receiver refuses cleanly instead of half understanding.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )

    def encode(self) -> bytes:
        """Return the message as canonical bytes: UTF-8 JSON without blanks."""
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, payload: bytes, *, limit: int = MAX_JSON_BYTES) -> Self:
        """Return the message that ``payload`` holds.

        Raises:
            RejectedError: ``TOO_LARGE`` past ``limit`` bytes, ``MALFORMED`` when the
                payload is not JSON of this shape, ``VERSION_UNKNOWN`` when it is of
                a version that this end does not speak.
        """
        if len(payload) > limit:
            raise RejectedError(
                Code.TOO_LARGE,
                f"{cls.__name__} of {len(payload)} bytes, at most {limit} allowed",
            )
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            raise RejectedError(*_explain(cls.__name__, error)) from error


def _explain(name: str, error: ValidationError) -> tuple[Code, str]:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    seen = repr(first["input"])[:80]
    code = Code.VERSION_UNKNOWN if first["loc"] == ("v",) else Code.MALFORMED
    return code, f"{name}: {where}: {first['msg']}, got {seen}"
