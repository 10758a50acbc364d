"""Private keys under a passphrase: PKCS#8 PEM, PBES2 with scrypt and AES-256-CBC.

``cryptography`` reads this form but writes only PBKDF2 with 2048 rounds, which a thief
of the file tries out quickly. The cost here is the one that OWASP recommends for 16 MiB
of memory, the most that OpenSSL's own command line reads. (RFC 8018 A.4, RFC 7914 7.)
"""

import base64
import os
import textwrap

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey

COST, BLOCK, LANES = 1 << 14, 8, 5
_SALT_BYTES, _KEY_BYTES, _BLOCK_BYTES = 16, 32, 16
_INTEGER, _OCTETS, _OBJECT, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_AES_256_CBC = bytes.fromhex("60864801650304012a")
_SHORT = 0x80


def plain_pem(key: PrivateKey) -> bytes:
    """Return ``key`` as PEM that anybody can read who has the file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def encrypted_pem(key: PrivateKey, passphrase: str) -> bytes:
    """Return ``key`` as PEM that only ``passphrase`` opens."""
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, start = os.urandom(_SALT_BYTES), os.urandom(_BLOCK_BYTES)
    scrypt = Scrypt(salt=salt, length=_KEY_BYTES, n=COST, r=BLOCK, p=LANES)
    sealer = Cipher(
        algorithms.AES(scrypt.derive(passphrase.encode())), modes.CBC(start)
    ).encryptor()
    padder = PKCS7(_BLOCK_BYTES * 8).padder()
    padded = padder.update(plain) + padder.finalize()
    sealed = sealer.update(padded) + sealer.finalize()
    text = base64.b64encode(_envelope(salt, start, sealed)).decode()
    lines = "\n".join(textwrap.wrap(text, 64))
    label = "ENCRYPTED PRIVATE KEY-----"
    return f"-----BEGIN {label}\n{lines}\n-----END {label}\n".encode()


def _envelope(salt: bytes, start: bytes, sealed: bytes) -> bytes:
    costs = (_der(_INTEGER, _number(value)) for value in (COST, BLOCK, LANES))
    parameters = _sequence(_der(_OCTETS, salt), *costs)
    derivation = _sequence(_der(_OBJECT, _SCRYPT), parameters)
    cipher = _sequence(_der(_OBJECT, _AES_256_CBC), _der(_OCTETS, start))
    algorithm = _sequence(_der(_OBJECT, _PBES2), _sequence(derivation, cipher))
    return _sequence(algorithm, _der(_OCTETS, sealed))


def _sequence(*parts: bytes) -> bytes:
    return _der(_SEQUENCE, b"".join(parts))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < _SHORT:
        return bytes((tag, size)) + content
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _SHORT | len(long))) + long + content


def _number(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")
