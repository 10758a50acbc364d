"""Properties of the telemetry sketch and window, for any values in any order."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.telemetry.sketch import Sketch
from quarterdeck_shared.telemetry.window import (
    CONFIDENCE_BINS,
    MAX_WINDOW_BYTES,
    OTHER,
    Window,
    merge,
)

values = st.lists(st.integers(0, 1 << 50), min_size=1, max_size=60)


def sketch_of(numbers: list[int]) -> Sketch:
    sketch = Sketch()
    for number in numbers:
        sketch.add(number)
    return sketch


@st.composite
def windows(draw: st.DrawFn, *, boot: int | None = None) -> Window:
    latencies = draw(st.lists(st.integers(0, 1 << 45), max_size=40))
    counts = st.integers(0, 1 << 20)
    labelled = draw(counts)
    return Window(
        boot=draw(st.integers(0, (1 << 53) - 1)) if boot is None else boot,
        sequence=draw(st.integers(1, 1 << 20)),
        artifact="0123456789abcdef",
        started=datetime.fromtimestamp(draw(st.integers(0, 1 << 31)), UTC),
        duration=timedelta(milliseconds=draw(st.integers(0, 1 << 30))),
        requests=len(latencies) + draw(st.integers(0, 5)),
        dropped=draw(counts),
        latency=sketch_of(latencies),
        confidence=tuple(draw(counts) for _ in range(CONFIDENCE_BINS)),
        classes=draw(
            st.dictionaries(st.integers(0, 5000), st.integers(1, 1 << 20), max_size=80)
        ),
        label_total=labelled,
        label_ok=draw(st.integers(0, labelled)),
        rss_mb=draw(st.integers(0, 1 << 16)),
    )


@given(values)
def test_every_quantile_is_within_1_6_percent_of_a_value_that_was_there(
    numbers: list[int],
) -> None:
    sketch = sketch_of(numbers)

    for share in (0, 0.5, 0.9, 0.99, 1):
        exact = sorted(numbers)[int(share * (len(numbers) - 1))]
        read = sketch.quantile(share)
        assert read is not None
        assert abs(read - exact) <= exact / 64 + 0.5


@given(values, values, values)
def test_merging_in_any_order_gives_the_sketch_of_all_values(
    a: list[int], b: list[int], c: list[int]
) -> None:
    one = sketch_of(a).merged(sketch_of(b)).merged(sketch_of(c))
    other = sketch_of(c).merged(sketch_of(b).merged(sketch_of(a)))

    assert one == other == sketch_of(a + b + c)


@given(values, st.integers(0, 4))
def test_coarsening_before_or_after_merging_is_the_same(
    numbers: list[int], bits: int
) -> None:
    half = len(numbers) // 2
    early = sketch_of(numbers[:half]).coarsened(bits)

    merged = early.merged(sketch_of(numbers[half:]))

    assert merged == sketch_of(numbers).coarsened(bits)


@given(values)
def test_a_sketch_survives_its_encoding(numbers: list[int]) -> None:
    sketch = sketch_of(numbers)

    assert Sketch.decode(sketch.encode()) == sketch


@given(windows())
def test_a_window_is_never_larger_than_the_limit_and_loses_no_count(
    window: Window,
) -> None:
    data = window.encode()
    read = Window.decode(data)

    assert len(data) <= MAX_WINDOW_BYTES
    assert read.counters() == window.counters()
    assert read.latency.count == window.latency.count
    assert read.confidence == window.confidence
    assert sum(read.classes.values()) == sum(window.classes.values())


@given(windows(boot=7), windows(boot=7))
def test_merged_windows_hold_the_sum_of_both(older: Window, newer: Window) -> None:
    merged = merge(older, newer)

    assert merged.requests == older.requests + newer.requests
    assert merged.latency.count == older.latency.count + newer.latency.count
    assert sum(merged.classes.values()) == sum(older.classes.values()) + sum(
        newer.classes.values()
    )
    assert merged.span == older.span + newer.span
    assert Window.decode(merged.encode()).label_ok == older.label_ok + newer.label_ok


@given(st.binary(max_size=600))
def test_any_bytes_are_a_window_or_are_refused(data: bytes) -> None:
    try:
        window = Window.decode(data)
    except RejectedError:
        return
    assert Window.decode(window.encode()).counters() == window.counters()


@given(windows(), st.data())
def test_a_damaged_window_is_a_window_or_is_refused(
    window: Window, data: st.DataObject
) -> None:
    record = bytearray(window.encode())
    at = data.draw(st.integers(0, len(record) - 1))
    record[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(record)))

    for damaged in (bytes(record), bytes(record[:cut])):
        try:
            Window.decode(damaged)
        except RejectedError:
            continue


def test_rare_classes_are_counted_together_when_there_are_too_many() -> None:
    window = Window(
        boot=1,
        sequence=1,
        artifact="0123456789abcdef",
        started=datetime(2026, 1, 1, tzinfo=UTC),
        duration=timedelta(seconds=1),
        classes={index: 1000 - index for index in range(40)},
    )

    read = Window.decode(window.encode())

    assert read.classes[0] == 1000
    assert read.classes[OTHER] == sum(1000 - index for index in range(24, 40))
