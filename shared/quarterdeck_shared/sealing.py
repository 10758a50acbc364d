"""How the key of a sealed artifact is bound to one device (PROTOCOL.md section 7).

The secret parts of a sealed artifact are encrypted once, in the age format, to a key
made for that artifact. That key travels in each device's assignment, encrypted to the
device's own X25519 key by HPKE (RFC 9180, base mode: X25519, HKDF-SHA256,
ChaCha20-Poly1305). HPKE's ``info`` binds it: the key of another device, or of another
artifact, does not open.
"""

from quarterdeck_shared.index import Index, PartName

SEALED_PARTS: tuple[PartName, ...] = ("model.onnx", "golden.npz")

SEAL_KEY_BYTES = 32
"""Length of a device's X25519 key, private and public."""

_PURPOSE = "quarterdeck/content-key/v1"


def binding(device: str, model_sha256: str) -> bytes:
    """Return HPKE's ``info`` for a device and an artifact.

    An artifact is known by the sha256 of its sealed ``model.onnx``, which is unique
    to it: the same model that is sealed again has another.
    """
    return f"{_PURPOSE}\0{device}\0{model_sha256}".encode()


def is_sealed(index: Index) -> bool:
    """Return whether a device needs a content key for the artifact."""
    return any(part.plain is not None for part in index.parts)
