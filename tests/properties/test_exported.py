"""Whatever a folder from elsewhere holds, it is refused or is what it says."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterdeck_controller.repository.ceremony import with_signatures
from quarterdeck_controller.repository.describe import describe
from quarterdeck_controller.repository.exported import (
    Answer,
    by_role,
    export,
    read_answers,
    read_exported,
)
from quarterdeck_shared.errors import RejectedError
from tests.support.ceremony import Fleet, copied_fleet, one_more_root
from tests.support.releases import publish

EXAMPLES = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


class Sent:
    """An export of which one file at a time is replaced."""

    def __init__(self, folder: Path) -> None:
        self.fleet: Fleet = copied_fleet(folder / "fleet")
        self.request = one_more_root(self.fleet)
        publish(self.fleet.repository)
        self.folder = folder / "sent"
        requests = self.fleet.repository.requests()
        self.listing = next(it for it in requests if "class-cam" in it.roles)
        self.payload = self.listing.metadata["class-cam"].signed_bytes
        self.chain = self.fleet.repository.chain()
        with self.fleet.repository.exclusive():
            export(self.listing, self.fleet.repository.in_force(), self.folder)
        self.fleet.answer(self.folder, "class-cam")
        files = [it for it in self.folder.rglob("*.json") if it.is_file()]
        self.files = sorted(str(it.relative_to(self.folder)) for it in files)
        self.good = {name: (self.folder / name).read_bytes() for name in self.files}

    def replaced(self, name: str, data: bytes) -> None:
        """Write the good files, and ``data`` in the place of one."""
        for other, good in self.good.items():
            (self.folder / other).write_bytes(data if other == name else good)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    folder = tmp_path_factory.mktemp("sent")
    yield Sent(folder)
    shutil.rmtree(folder)


def use(sent: Sent) -> None:
    """Do what a signer and the home do with the folder: nothing else is believed."""
    try:
        exported = read_exported(sent.folder)
        request = exported.request
        for role, new in request.changed().items():
            lines = describe(role, new, exported.chain, request.terms.created)
            assert all(line.isprintable() for line in lines)
        taken = by_role(read_answers(sent.folder))
        grown = with_signatures(sent.listing.metadata, taken, sent.chain)
    except RejectedError:
        return
    assert grown["class-cam"].signed_bytes == sent.payload
    if request.id == sent.listing.id:
        assert request.metadata["class-cam"].signed_bytes == sent.payload
    assert exported.chain is not None
    assert exported.chain.signed() == sent.chain.signed()


def mutated(draw: st.DrawFn, value: object) -> object:
    """Return ``value`` with one thing in it replaced."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: mutated(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], mutated(draw, value[place]), *value[place + 1 :]]
    return draw(VALUES)


@EXAMPLES
@given(data=st.data())
def test_no_bytes_in_any_file_change_what_is_signed_or_end_in_a_traceback(
    sent: Sent, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sent.files))
    good, at = sent.good[name], data.draw(st.integers(0, len(sent.good[name])))
    noise = data.draw(st.binary(min_size=1, max_size=12))

    sent.replaced(name, good[:at] + noise + good[at + len(noise) :])
    use(sent)


@EXAMPLES
@given(data=st.data())
def test_no_json_in_any_file_changes_what_is_signed_or_ends_in_a_traceback(
    sent: Sent, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sent.files))
    good = json.loads(sent.good[name])
    bad = data.draw(st.composite(mutated)(good))

    sent.replaced(name, json.dumps(bad).encode())
    use(sent)


@given(
    signatures=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    keyid=st.text(max_size=64),
)
def test_an_answer_is_of_its_form_or_refused(
    signatures: dict[str, str], keyid: str
) -> None:
    told = {"v": 1, "request": "0" * 8, "keyid": keyid, "signatures": signatures}

    with pytest.raises(RejectedError):
        Answer.decode(json.dumps(told).encode())
