"""How JSON messages are bounded, checked and written."""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_JSON_BYTES = 64 * 1024
_MAX_SHOWN = 80


class Wire(BaseModel):
    """A message or file that the two ends exchange.

    Unknown fields are refused: a newer sender must raise the version, so that an
    older receiver refuses cleanly instead of half understanding. A field that is a
    secret is declared with ``repr=False``: no refusal then says what was in it.
    Numbers are finite: a limit that is no number stops nothing.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_bytes="base64",
        val_json_bytes="base64",
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
            told = _explain(cls, error)
        # Not from ``error``, which holds the input: it may be a secret.
        raise RejectedError(*told)


def _explain(kind: type[Wire], error: ValidationError) -> tuple[Code, str]:
    first = error.errors(include_url=False, include_context=False)[0]
    named = ".".join(str(part) for part in first["loc"])[:_MAX_SHOWN]
    where = (named if named.isprintable() else ascii(named)) or "the whole"
    code = Code.VERSION_UNKNOWN if first["loc"] == ("v",) else Code.MALFORMED
    told = f"{kind.__name__}: {where}: {first['msg']}"
    return code, told + _seen(kind, first["loc"], first["input"])


def _seen(kind: type[Wire], where: tuple[int | str, ...], found: object) -> str:
    """Return what was found there, unless it holds more than that or is a secret."""
    field = kind.model_fields.get(str(where[0])) if where else None
    if field is None or not field.repr:
        return ""
    is_plain = found is None or isinstance(found, str | int | float)
    return f", got {repr(found)[:_MAX_SHOWN]}" if is_plain else ""
