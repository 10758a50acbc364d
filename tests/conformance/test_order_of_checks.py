"""Of several faults the first check of PROTOCOL.md section 6 gives the code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from securesystemslib.signer import CryptoSigner

from quarterdeck_agent.update.floor import FloorFile
from quarterdeck_shared.assignment import PAYLOAD_TYPE, Target
from quarterdeck_shared.codes import Code
from tests.support.attacks import BUILT, World, refusal, sealed

UNKNOWN = Target(path="classes/cam/model-9.idx", length=10, sha256="0" * 64)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        check: The check that must find it.
        fields: What it changes in an assignment that is otherwise good.
    """

    check: str
    code: Code
    fields: Mapping[str, object] = field(default_factory=dict)
    kind: str = PAYLOAD_TYPE
    expired: bool = False
    forged: bool = False
    gateway: bool = False

    @property
    def retargets(self) -> bool:
        return self.gateway or "target" in self.fields or "version" in self.fields


FAULTS = (
    Fault("6.1 form", Code.MALFORMED, kind="text/plain"),
    Fault("6.3 freshness", Code.METADATA_EXPIRED, expired=True),
    Fault("6.5 signature", Code.ASSIGNMENT_UNSIGNED, forged=True),
    Fault("6.6 device", Code.WRONG_DEVICE, {"device": "cam-2"}),
    Fault("6.6 class", Code.WRONG_CLASS, {"device_class": "gateway"}),
    Fault("6.6 expiry", Code.ASSIGNMENT_EXPIRED, {"expires": BUILT}),
    Fault("6.6 sequence", Code.ASSIGNMENT_REPLAYED, {"sequence": 4}),
    Fault("6.7 path", Code.WRONG_CLASS, gateway=True),
    Fault("6.8 listing", Code.TARGET_UNKNOWN, {"target": UNKNOWN}),
    Fault("6.9 counter", Code.RELEASE_DOWNGRADE, {"version": 1}),
)


@pytest.fixture(scope="module")
def lived() -> Iterator[World]:
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.release(2)
        world.permit(1, "")
        world.device().accept(world.assign(5, version=2))
        yield world


def judged(world: World, *faults: Fault) -> Code:
    """Return the code with which an assignment with all of ``faults`` is refused."""
    fields: dict[str, object] = {"sequence": 6, "version": 2}
    for fault in faults:
        fields |= fault.fields
    if any(fault.gateway for fault in faults):
        variant = world.catalog.release("model@2").variants["gateway"]
        fields["target"] = variant.target
    sequence, version = fields.pop("sequence"), fields.pop("version")
    assert isinstance(sequence, int)
    assert isinstance(version, int)
    payload = world.assignment(sequence, version=version, **fields).encode()
    forged = any(fault.forged for fault in faults)
    key = CryptoSigner.generate_ed25519() if forged else world.key("director")
    kinds = {fault.kind for fault in faults} - {PAYLOAD_TYPE}
    now = world.clock.time
    if any(fault.expired for fault in faults):
        world.clock.time = now + timedelta(days=2)
    try:
        envelope = sealed(payload, key, kind=kinds.pop() if kinds else PAYLOAD_TYPE)
        return refusal(world.device(), envelope)
    finally:
        world.clock.time = now


def clash(first: Fault, second: Fault) -> bool:
    return first.retargets and second.retargets


PAIRS = [pair for pair in combinations(FAULTS, 2) if not clash(*pair)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.check)
def test_each_fault_is_found_by_its_check(lived: World, fault: Fault) -> None:
    assert judged(lived, fault) is fault.code


@pytest.mark.parametrize(
    ("first", "second"), PAIRS, ids=[f"{a.check} {b.check}" for a, b in PAIRS]
)
def test_of_two_faults_the_earlier_check_gives_the_code(
    lived: World, first: Fault, second: Fault
) -> None:
    assert judged(lived, first, second) is first.code


def test_whatever_is_wrong_at_once_changes_nothing(
    lived: World,
) -> None:
    before = FloorFile(lived.state()).load(BUILT)
    wrong = list(FAULTS[:8])
    while wrong:
        assert judged(lived, *wrong) is wrong[0].code
        wrong.pop(0)

    assert FloorFile(lived.state()).load(BUILT) == before
