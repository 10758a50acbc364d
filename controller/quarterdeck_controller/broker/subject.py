"""Whom a certificate names, as a broker spells it.

Both brokers take the whole subject of a certificate for the name of its user, so that
what is granted is granted to one generation of one device of one class, and nothing
else that the same authority ever signed can pass for it. A subject is written as in
RFC 2253, last attribute first; NATS ignores the order and minds the case, mosquitto
compares letter by letter.
"""

from quarterdeck_controller.broker.port import CONTROLLER, Admission, Grant
from quarterdeck_shared.enrolment import CLAIM_PREFIX
from quarterdeck_shared.ids import is_name


def of_controller() -> str:
    """Return the subject of the controller's certificate."""
    return f"CN={CONTROLLER}"


def of_claim(claim: str) -> str:
    """Return the subject of a claim certificate."""
    if not (is_name(claim) and claim.startswith(CLAIM_PREFIX)):
        raise ValueError(f"{claim!r} may not name a claim")
    return f"CN={claim}"


def of_device(grant: Grant) -> tuple[str, ...]:
    """Return the subject of each certificate with which a device may come."""
    reserved = grant.device == CONTROLLER or grant.device.startswith(CLAIM_PREFIX)
    if reserved or not (is_name(grant.device) and is_name(grant.device_class)):
        raise ValueError(f"{grant.device!r} may not name a device")
    name = f"CN={grant.device},OU={grant.device_class}"
    return tuple(f"serialNumber={it:d},{name}" for it in grant.generations)


def of_all(admission: Admission) -> frozenset[str]:
    """Return the subjects of everybody who is let in, but the controller's."""
    devices = (it for grant in admission.devices for it in of_device(grant))
    return frozenset((*devices, *map(of_claim, admission.claims)))
