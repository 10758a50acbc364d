"""What the device refused, told to the controller in signed statements."""

from typing import Protocol


class DeviceKey(Protocol):
    """The private key of the device's certificate, wherever it is kept."""

    @property
    def key_id(self) -> str:
        """Sha256 of the public key (SubjectPublicKeyInfo, DER), in hex."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA P-256 signature with SHA-256 over ``data``, DER.

        Blocking: a TPM takes tens of milliseconds.

        Raises:
            QuarterdeckError: The key cannot be used.
        """
        ...
