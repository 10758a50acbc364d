"""Keys that a PKCS#11 token keeps: made there, used there, never seen here (P-256).

``<name>.hsm`` tells where one is. The signing itself is ``securesystemslib``'s
``HSMSigner``. A wrong PIN is never tried twice: tokens lock themselves after a few.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pkcs11
from pkcs11.exceptions import NoSuchToken, PinIncorrect, PinLocked, PKCS11Error
from pkcs11.util import biginteger
from pkcs11.util.ec import encode_named_curve_parameters
from securesystemslib.signer import HSMSigner, Signature, Signer, SSlibKey

from quarterdeck_controller.repository.place import Place
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

Pin = Callable[[], str]

_MODULE_VARIABLE = "PYKCS11LIB"
_FIRST_ID = 2  # the signature slot of PIV cards, where HSMSigner looks by default


class TokenKey(Signer):
    """A key in a token, as a signer."""

    def __init__(self, place: Place, public: SSlibKey, pin: Pin) -> None:
        self._place = place
        self._inner = HSMSigner(place.object, public, lambda _: pin(), place.token)

    @property
    def public_key(self) -> SSlibKey:
        """The public half."""
        return self._inner.public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: object, secrets_handler: object = None
    ) -> "TokenKey":
        """Keys are found by their files here, never by an address."""
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        """Return the token's signature over ``payload``.

        Raises:
            RejectedError: ``KEY_LOCKED`` for a wrong PIN, ``KEY_INVALID`` when the
                token or the key is not there or does not work.
        """
        os.environ[_MODULE_VARIABLE] = self._place.module  # where HSMSigner looks
        with _explained(self._place.module, self._place.token):
            return self._inner.sign(payload)


def make_key(module: str, token: str, label: str, pin: str) -> Place:
    """Make a key in a token, or find the one of that label that is there already.

    Raises:
        RejectedError: ``KEY_LOCKED`` for a wrong PIN, ``KEY_INVALID`` when the token
            is not there, does not work, or has another kind of key of that label.
    """
    with _explained(module, token):
        found = pkcs11.lib(module).get_token(token_label=token)
        with found.open(rw=True, user_pin=pin) as session:
            number = _find(session, label)
            if number is None:
                number = _generate(session, label)
    os.environ[_MODULE_VARIABLE] = module
    with _explained(module, token):
        _, public = HSMSigner.import_(number, token, lambda _: pin)
    if public.scheme != "ecdsa-sha2-nistp256":
        raise RejectedError(
            Code.KEY_INVALID, f"{label} in {token} is of {public.scheme}, not P-256"
        )
    return Place(
        module=module, token=token, object=number, label=label, key=public.to_dict()
    )


def _find(session: pkcs11.Session, label: str) -> int | None:
    wanted = {
        pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY,
        pkcs11.Attribute.LABEL: label,
    }
    for key in session.get_objects(wanted):
        return int.from_bytes(key[pkcs11.Attribute.ID], "big")
    return None


def _generate(session: pkcs11.Session, label: str) -> int:
    keys = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}
    used = {
        int.from_bytes(key[pkcs11.Attribute.ID], "big")
        for key in session.get_objects(keys)
    }
    number = next(it for it in range(_FIRST_ID, 1 << 16) if it not in used)
    curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
    parameters.generate_keypair(
        mechanism=pkcs11.Mechanism.EC_KEY_PAIR_GEN,
        store=True,
        label=label,
        id=biginteger(number),
    )
    return number


@contextmanager
def _explained(module: str, token: str) -> Iterator[None]:
    try:
        yield
    except (PinIncorrect, PinLocked) as error:
        state = "is locked" if isinstance(error, PinLocked) else "refused the PIN"
        raise RejectedError(Code.KEY_LOCKED, f"the token {token} {state}") from error
    except NoSuchToken as error:
        raise RejectedError(
            Code.KEY_INVALID, f"{module} knows no token {token}; is it plugged in?"
        ) from error
    except (PKCS11Error, ValueError) as error:
        told = str(error) or type(error).__name__
        raise RejectedError(Code.KEY_INVALID, f"the token {token}: {told}") from error
