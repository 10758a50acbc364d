"""The request for a certificate (PKCS#10) that a device sends. Pure but for the key.

It is put together here, not by a library: keys that stay in a TPM can sign only through
OpenSSL, and one of its widespread TPM providers writes requests that others refuse.
"""

import base64
import textwrap

from cryptography import x509
from cryptography.x509.oid import NameOID

from quarterdeck_agent.identity.key import DeviceKey

_SEQUENCE, _CONTEXT_0, _BIT_STRING = 0x30, 0xA0, 0x03
_LONG = 0x80
_VERSION_0 = bytes.fromhex("020100")
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def certificate_request(device: str, key: DeviceKey) -> bytes:
    """Return the request of ``device`` for ``key``, PEM.

    Raises:
        RejectedError: ``KEY_UNUSABLE``.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    info = _der(
        _SEQUENCE,
        _VERSION_0 + subject.public_bytes() + key.public + _der(_CONTEXT_0, b""),
    )
    signature = _der(_BIT_STRING, b"\0" + key.sign(info))
    return _pem(_der(_SEQUENCE, info + _ECDSA_WITH_SHA256 + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < _LONG:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, _LONG | len(octets)]) + octets + content


def _pem(der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    label = "CERTIFICATE REQUEST"
    return "\n".join(
        [f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]
    ).encode()
