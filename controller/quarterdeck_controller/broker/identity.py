"""Whom a certificate names, as each broker spells it.

What is granted is granted to one generation of one device of one class: to its whole
identity, so that nothing else that the same authority ever signed can pass for it.

mosquitto takes the whole subject for the name of a user, as in RFC 2253: last
attribute first, compared letter by letter. NATS does so too, but compares a subject
with that of every user there is, at every connect and for every session at every
reload: minutes for a large fleet. It looks an alternative name up at once, so the
certificates of devices carry their identity as a URI, too.
"""

from collections.abc import Iterator

from quarterdeck_controller.broker.port import CONTROLLER, Grant
from quarterdeck_shared.enrolment import CLAIM_PREFIX
from quarterdeck_shared.ids import is_name


def device_uri(device: str, device_class: str, generation: int) -> str:
    """Return the alternative name of a device's certificate."""
    return f"urn:quarterdeck:device:{device_class}:{device}:{generation:d}"


def device_uris(grant: Grant) -> Iterator[str]:
    """Return the alternative name of each certificate with which a device may come."""
    _check(grant)
    for it in grant.generations:
        yield device_uri(grant.device, grant.device_class, it)


def device_subjects(grant: Grant) -> Iterator[str]:
    """Return the subject of each certificate with which a device may come."""
    _check(grant)
    for it in grant.generations:
        yield f"serialNumber={it:d},CN={grant.device},OU={grant.device_class}"


def controller_subject() -> str:
    """Return the subject of the controller's certificate."""
    return f"CN={CONTROLLER}"


def claim_subject(claim: str) -> str:
    """Return the subject of a claim certificate."""
    if not (is_name(claim) and claim.startswith(CLAIM_PREFIX)):
        raise ValueError(f"{claim!r} may not name a claim")
    return f"CN={claim}"


def _check(grant: Grant) -> None:
    reserved = grant.device == CONTROLLER or grant.device.startswith(CLAIM_PREFIX)
    if reserved or not (is_name(grant.device) and is_name(grant.device_class)):
        raise ValueError(
            f"{grant.device!r} of class {grant.device_class!r} may not name a device"
        )
