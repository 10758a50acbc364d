"""What version 1 writes must be read for ever; these bytes are never regenerated."""

from datetime import UTC, datetime, timedelta

from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.window import Window
from quarterdeck_shared.transfer import ChunkFrame

WINDOW_V1 = bytes.fromhex(
    "010000000000000007000000030123456789abcdef69551040d00f01030001040403024000060a"
    "fd03021f0100000000000000000000000000000003000200010502"
)
FRAME_V1 = bytes.fromhex("01000000000000020000000000000009616263")


def test_a_chunk_frame_of_version_1_is_read() -> None:
    assert ChunkFrame.decode(FRAME_V1) == ChunkFrame(2, 9, b"abc")
    assert ChunkFrame(2, 9, b"abc").encode() == FRAME_V1


def sample() -> Window:
    sketch = Sketch()
    for value in (1_000_000, 1_000_000, 2_000_000):
        sketch.add(value)
    return Window(
        boot=7,
        sequence=3,
        artifact="0123456789abcdef",
        started=datetime(2025, 12, 31, 12, tzinfo=UTC),
        duration=timedelta(seconds=2),
        requests=3,
        dropped=1,
        latency=sketch,
        confidence=(0,) * 15 + (3,),
        classes={0: 1, 5: 2},
        golden_total=4,
        golden_ok=4,
        label_total=3,
        label_ok=2,
        rss_mb=64,
    )


def test_a_window_of_version_1_is_read() -> None:
    assert Window.decode(WINDOW_V1) == sample()
    assert sample().encode() == WINDOW_V1
