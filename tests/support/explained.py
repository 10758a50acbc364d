"""A home with a device that runs a release it was assigned, without any process."""

import json
from dataclasses import replace
from datetime import timedelta

from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from quarterdeck_controller.fleet.assignments import Assignments, Wish
from quarterdeck_controller.fleet.inventory import enrol
from quarterdeck_controller.fleet.listener import Listener
from quarterdeck_controller.home import Home
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.store.records import Assigned, Report, Runs
from quarterdeck_controller.store.store import Store
from quarterdeck_shared.assignment import Probation
from quarterdeck_shared.bus.memory import MemoryBroker, MemoryBus
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.reported import Slot
from tests.support.fleet import FakeDevice


def settle(
    home: Home, clock: Clock, release: str, *, device: str = "one", name: str = "cam"
) -> Assigned:
    """Enrol ``device`` of the class ``name``, assign ``release``, have it committed."""
    target = Catalog(home).release(release).variants[name].target
    with Store.open(home.database) as store:
        with store.write() as records:
            enrol(records, device, name, now=clock.now())
        director = Director(home)
        assignments = Assignments(
            store, None, director.sign, clock, lifetime=timedelta(days=14)
        )
        wish = Wish(device, name, Runs(release, target), "a test", Probation())
        with store.write() as records:
            (assigned,) = assignments.sign(records, [wish], clock.now())
        fake = FakeDevice(device, name)
        fake.commit(assigned)
        listener = Listener(MemoryBus(MemoryBroker(), "c"), store, clock)
        said = (fake.birth(), fake.says(clock.now()))
        listener._writer.write([(it, clock.now()) for it in said])
    return assigned


def report_other(home: Home, clock: Clock, device: str, slot: Slot) -> None:
    """Have the device report that it runs something else."""
    with Store.open(home.database) as store, store.write() as records:
        report = records.reports.get(device)
        assert report is not None
        changed = report.reported.model_copy(update={"active": slot})
        records.reports.put([Report(changed, clock.now(), clock.now())])


def forge_assignment(home: Home, device: str) -> None:
    """Put an assignment into the store that a stranger has signed."""
    thief = CryptoSigner.generate_ed25519()
    with Store.open(home.database) as store, store.write() as records:
        ours = records.assignments.get(device)
        assert ours is not None
        envelope = Envelope.from_dict(json.loads(ours.envelope))
        envelope.signatures = {}
        envelope.sign(thief)
        forged = json.dumps(envelope.to_dict()).encode()
        following = replace(ours, sequence=ours.sequence + 1, envelope=forged)
        records.assignments.add([following])
