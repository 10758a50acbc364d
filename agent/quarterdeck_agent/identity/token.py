"""What a machine signs with its one-time token, which never travels itself."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quarterdeck_shared.dsse import pae, sealed
from quarterdeck_shared.enrolment import ENROL_TYPE, EnrolRequest, token_seed


def asked_with(token: str, request: EnrolRequest) -> bytes:
    """Return ``request`` in an envelope that shows that its sender holds ``token``."""
    key = Ed25519PrivateKey.from_private_bytes(token_seed(token))
    payload = request.encode()
    signature = key.sign(pae(ENROL_TYPE, payload))
    keyid = key.public_key().public_bytes_raw().hex()
    return sealed(ENROL_TYPE, payload, {keyid: signature})
