"""Where a PKCS#11 token keeps a key: what lies in a folder of keys in its stead."""

from typing import Any, Literal

from pydantic import Field

from quarterdeck_shared.wire import Wire


class Place(Wire):
    """``<name>.hsm``: where a token keeps a key.

    Attributes:
        module: The token's PKCS#11 library, an absolute path.
        token: The token's label.
        object: The id of the key in the token.
        label: The key's label in the token.
        key: The public half, as ``securesystemslib`` writes it.
    """

    v: Literal[1] = 1
    module: str = Field(min_length=1, max_length=4096)
    token: str = Field(min_length=1, max_length=64)
    object: int = Field(ge=0, le=1 << 64)
    label: str = Field(max_length=256)
    key: dict[str, Any]
