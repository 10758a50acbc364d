"""Topics and what a device may do with them."""

import pytest

from quarterdeck_shared import topics


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "A", "-a", "a.b", "x" * 65])
def test_a_name_that_could_widen_a_permission_makes_no_topic(name: str) -> None:
    with pytest.raises(ValueError, match="may not be a topic level"):
        topics.up(name, topics.UP_EVENT)


def test_a_devices_topic_is_taken_apart_again() -> None:
    parsed = topics.parse_up(topics.up("cam-1", topics.UP_NEED))

    assert parsed == topics.UpTopic("cam-1", "need")


@pytest.mark.parametrize(
    "topic", ["qd/1/device/A/up/need", "qd/2/device/a/up/need", "qd/1/device/a/up", "x"]
)
def test_another_form_of_topic_is_nobodys(topic: str) -> None:
    assert topics.parse_up(topic) is None


def test_a_device_may_publish_under_its_own_name_only() -> None:
    granted = topics.device_publishes("cam-1")

    assert "qd/1/device/cam-1/up/reported" in granted
    assert all(topics.parse_up(it) is not None for it in granted)
    assert not any("+" in it or "#" in it for it in granted)
    assert len(granted) == len(topics.UP_LEAVES)


def test_a_device_reads_its_own_its_class_and_the_controllers_state() -> None:
    readable = topics.device_subscribes("cam-1", "board")

    assert set(readable) == {
        "qd/1/device/cam-1/down/#",
        "qd/1/class/board/chunk/+",
        "qd/1/controller/state",
        "qd/1/metadata/timestamp",
    }
