"""What devices of each class run, keep or are assigned, as the store knows it.

A report counts only for what was once assigned to that very device: what it says beside
that could make a class key permit devices to go back to a release of somebody's choice.
"""

from collections import defaultdict
from collections.abc import Mapping

from quarterdeck_controller.home import Home
from quarterdeck_controller.store.store import Records, Store


def held_artifacts(records: Records) -> Mapping[str, frozenset[str]]:
    """Return the artifacts that devices of a class hold, by class."""
    classes = {device.id: device.device_class for device in records.devices.all()}
    held: dict[str, set[str]] = defaultdict(set)
    for name, artifact in records.assignments.reported():
        held[classes.get(name, "")].add(artifact)
    for name, artifact in records.assignments.digests().items():
        held[classes.get(name, "")].add(artifact)
    return {name: frozenset(artifacts) for name, artifacts in held.items() if name}


def read_held(home: Home) -> Mapping[str, frozenset[str]]:
    """Return the same for the fleet at ``home``; empty for one without a database."""
    if not home.database.is_file():
        return {}
    with Store.open(home.database) as store, store.read() as records:
        return held_artifacts(records)
