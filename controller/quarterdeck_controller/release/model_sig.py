"""``model.sig``: a signature of a variant's files that OpenSSF's tool checks (pure).

For people outside the fleet: ``model_signing verify key`` accepts the folder that
``quarterdeck release export-signature`` writes. Devices do not look at it: it knows
neither freshness nor roles. The format is a sigstore bundle v0.3 with an in-toto
statement in a DSSE envelope (https://github.com/ossf/model-signing-spec).
"""

import base64
import hashlib
import json
from collections.abc import Mapping

from securesystemslib.signer import Key, Signer

from quarterdeck_controller.release.provenance import PAYLOAD_TYPE
from quarterdeck_controller.release.statement import STATEMENT_TYPE
from quarterdeck_shared.codes import Code
from quarterdeck_shared.dsse import pae
from quarterdeck_shared.errors import RejectedError

SIGNATURE_FILE = "model.sig"
SCHEME = "ecdsa-sha2-nistp256"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def sign_files(name: str, digests: Mapping[str, str], signer: Signer) -> bytes:
    """Return ``model.sig`` for files of these sha256 digests.

    Args:
        name: Of the folder that they lie in.
        digests: By file name.
        signer: A P-256 key: the tool knows no Ed25519.

    Raises:
        RejectedError: ``KEY_UNUSABLE`` for a key of another kind.
    """
    key = signer.public_key
    if key.scheme != SCHEME:
        raise RejectedError(
            Code.KEY_UNUSABLE,
            f"the key is for {key.scheme}; model.sig needs P-256: openssl ecparam "
            "-name prime256v1 -genkey -noout -out key.pem",
        )
    payload = _json(_statement(name, digests))
    signature = bytes.fromhex(signer.sign(pae(PAYLOAD_TYPE, payload)).signature)
    return _json(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": _hint(key)},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": _base64(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": _base64(signature), "keyid": ""}],
            },
        }
    )


def _statement(name: str, digests: Mapping[str, str]) -> dict[str, object]:
    resources = [
        {"name": file, "algorithm": "sha256", "digest": digests[file]}
        for file in sorted(digests)
    ]
    whole = hashlib.sha256()
    for file in sorted(digests):
        whole.update(bytes.fromhex(digests[file]))
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": whole.hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "resources": resources,
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [],
            },
        },
    }


def public_pem(key: Key) -> bytes:
    """Return the public half of a P-256 ``key`` as the tool is given it."""
    return str(key.keyval["public"]).strip().encode() + b"\n"


def _hint(key: Key) -> str:
    """Return what the tool compares with the public key that it is given."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
