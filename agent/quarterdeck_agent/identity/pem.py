"""Files in PEM taken apart: which blocks they hold, of which kind. Pure.

Text between the blocks is ignored, as OpenSSL does.
"""

import re
from dataclasses import dataclass

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_PEM_BYTES = 64 * 1024
TPM_KEY = "TSS2 PRIVATE KEY"
"""What OpenSSL's ``tpm2`` provider writes: a key that only its TPM can use."""

_CERTIFICATE = "CERTIFICATE"
_BLOCK = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n"
    rb"[A-Za-z0-9+/=\r\n]{1,32768}"
    rb"-----END \1-----"
)


@dataclass(frozen=True, slots=True)
class Pem:
    """What a PEM file holds.

    Attributes:
        key: The first private key's block; None when there is none.
        key_kind: Its label, such as ``PRIVATE KEY`` or ``TSS2 PRIVATE KEY``.
        chain: The certificates' blocks in their order; empty for none.
    """

    key: bytes | None
    key_kind: str
    chain: bytes


def take_apart(data: bytes) -> Pem:
    """Return the blocks of ``data``, which says nothing of whether they are any good.

    Raises:
        RejectedError: ``TOO_LARGE`` past ``MAX_PEM_BYTES``; ``MALFORMED`` when it holds
            two private keys.
    """
    if len(data) > MAX_PEM_BYTES:
        detail = f"PEM of {len(data)} bytes, at most {MAX_PEM_BYTES} allowed"
        raise RejectedError(Code.TOO_LARGE, detail)
    keys: list[tuple[str, bytes]] = []
    chain: list[bytes] = []
    for found in _BLOCK.finditer(data):
        label = found[1].decode()
        if label == _CERTIFICATE:
            chain.append(found[0] + b"\n")
        elif label.endswith("PRIVATE KEY"):
            keys.append((label, found[0] + b"\n"))
    if len(keys) > 1:
        raise RejectedError(Code.MALFORMED, f"{len(keys)} private keys in one file")
    kind, key = keys[0] if keys else ("", None)
    return Pem(key, kind, b"".join(chain))
