"""Figures from what was timed, and where latencies are known from."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from os import utime
from pathlib import Path

import pytest
from onnx import NodeProto, TensorProto, helper

from quarterdeck_controller.optimize.measure.audit import Event, shares, summarize
from quarterdeck_controller.optimize.measure.known import Key, Known
from quarterdeck_controller.optimize.measure.latency import (
    Brought,
    First,
    Here,
    Question,
    Told,
)
from quarterdeck_controller.optimize.measure.measure import (
    enough,
    peak_memory_mb,
    quantile,
    ratio_of,
    undisturbed,
)
from quarterdeck_controller.optimize.profile import load_profile
from quarterdeck_controller.optimize.steps import Measured, MeasureRequest, Times
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.latency import LatencyReport, Spent
from quarterdeck_shared.session import Session

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SPENT = Spent(p50_ms=2, p90_ms=3, p99_ms=4, cpu_ms=2)
REPORT = LatencyReport(
    device="board-1",
    device_class="board-arm64",
    machine=Capabilities(
        isa=("aarch64", "dotprod"), memory_mb=900, cpus=4, runtime="1.24", providers=()
    ),
    measured=NOON,
    variant_sha256="a" * 64,
    float_sha256="b" * 64,
    session=Session(),
    variant=SPENT,
    reference=SPENT,
    ratio=0.5,
    peak_memory_mb=80,
    load_ms=20,
)
HERE = Measured(
    peak_memory_mb=90,
    load_ms=10,
    times=Times(p50_ms=1, p90_ms=1, p99_ms=1, cpu_ms=1),
    reference_times=Times(p50_ms=1, p90_ms=1, p99_ms=1, cpu_ms=1),
    ratio=1.0,
)


def here(request: MeasureRequest) -> Measured:
    del request
    return HERE


def question() -> Question:
    return Question(
        variant=Path("variant"),
        variant_sha256="a" * 64,
        reference=Path("float"),
        float_sha256="b" * 64,
        samples=Path("samples"),
        profile=load_profile("board-arm64"),
    )


# ---- timing --------------------------------------------------------------------------


def test_a_burst_that_hits_both_of_a_pair_leaves_the_ratio_as_it_is() -> None:
    ours = [1.0] * 50 + [9.0] * 60
    theirs = [2.0] * 50 + [18.0] * 60

    assert ratio_of(ours, theirs) == 0.5


def test_outliers_on_one_side_do_not_move_the_ratio() -> None:
    ours = [1.0] * 80 + [50.0] * 20
    theirs = [2.0] * 100

    assert ratio_of(ours, theirs) == 0.5


def test_an_inference_that_waited_for_the_processor_is_not_the_models_latency() -> None:
    wall = [0.010] * 80 + [0.030] * 20
    cpu = [0.010] * 100

    assert undisturbed(wall, cpu) == [0.010] * 80


def test_a_model_that_always_waits_keeps_its_latencies() -> None:
    wall, cpu = [0.030] * 60 + [0.010] * 40, [0.010] * 100

    assert undisturbed(wall, cpu) == wall


def test_several_threads_use_more_processor_time_than_passes() -> None:
    assert undisturbed([0.010, 0.012], [0.030, 0.030]) == [0.010, 0.012]


@pytest.mark.parametrize(
    ("turns", "elapsed_s", "is_enough"),
    [
        (199, 1.0, False),
        (200, 0.9, False),
        (200, 1.0, True),
        (2000, 0.1, True),
        (20, 3.9, False),
        (20, 4.0, True),
        (6, 60.0, False),
        (7, 60.0, True),
    ],
)
def test_turns_end_by_number_and_by_time(
    turns: int, elapsed_s: float, *, is_enough: bool
) -> None:
    assert enough(turns, elapsed_s) is is_enough


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 5.0), (0.9, 9.0), (0.99, 10.0), (0.0, 1.0), (1.0, 10.0)]
)
def test_a_quantile_is_one_of_the_values(share: float, value: float) -> None:
    assert quantile([float(n) for n in range(1, 11)], share) == value


def test_the_kernel_tells_this_process_peak_memory() -> None:
    assert peak_memory_mb() > 20


# ---- audit ---------------------------------------------------------------------------


def test_an_operator_with_a_subgraph_is_given_what_its_nodes_leave() -> None:
    run = [
        Event("Conv", 2, 5),
        Event("Relu", 7, 1),
        Event("If", 0, 10),
        Event("Add", 10, 10),
    ]

    found = shares([run])

    assert found == {"Add": 0.5, "Conv": 0.25, "If": 0.2, "Relu": 0.05}


def test_shares_are_medians_over_the_runs() -> None:
    def run(conv: float) -> list[Event]:
        return [Event("Conv", 0, conv), Event("Add", 1000, 1)]

    assert shares([run(3), run(3), run(900)])["Conv"] == 0.75


def test_without_events_no_shares_are_made_up() -> None:
    assert shares([]) == {}


def node(
    operator: str, inputs: Sequence[str] = ("x", "w"), accuracy: int | None = None
) -> NodeProto:
    made = helper.make_node(operator, list(inputs), ["y"])
    if accuracy is not None:
        made.attribute.append(helper.make_attribute("accuracy_level", accuracy))
    return made


@pytest.mark.parametrize(
    ("found", "integer", "heavy_float", "conversions"),
    [
        (node("Conv"), 0, 1, 0),
        (node("FusedConv"), 0, 1, 0),
        (node("LSTM"), 0, 1, 0),
        (node("QLinearConv"), 1, 0, 0),
        (node("QLinearAdd"), 1, 0, 0),
        (node("QGemm"), 1, 0, 0),
        (node("MatMulIntegerToFloat"), 1, 0, 0),
        (node("DynamicQuantizeMatMul"), 1, 0, 0),
        (node("MatMulNBits", accuracy=4), 1, 0, 0),
        (node("MatMulNBits", accuracy=0), 0, 1, 0),
        (node("MatMulNBits"), 0, 1, 0),
        (node("MatMul", ("x", "indices")), 0, 0, 0),
        (node("Attention", ("x", "w", "b", "indices")), 0, 1, 0),
        (node("ReorderInput"), 0, 0, 0),
        (node("QuantizeLinear"), 0, 0, 1),
        (node("DequantizeLinear"), 0, 0, 1),
        (node("DynamicQuantizeLinear"), 0, 0, 0),
    ],
)
def test_kernels_are_told_apart_by_what_they_multiply(
    found: NodeProto, integer: int, heavy_float: int, conversions: int
) -> None:
    types = {"indices": TensorProto.INT64, "w": TensorProto.FLOAT}

    audit = summarize([found], types, {})

    assert (audit.integer, audit.heavy_float, audit.conversions) == (
        integer,
        heavy_float,
        conversions,
    )


def test_a_fingerprint_does_not_depend_on_the_order_of_the_nodes() -> None:
    nodes = [node("Conv"), node("Add"), node("Conv")]

    prints = {summarize(some, {}, {}).fingerprint for some in (nodes, nodes[::-1])}

    assert prints == {"Add:1 Conv:2"}


# ---- what is known -------------------------------------------------------------------


def test_a_report_keeps_its_form_on_disk() -> None:
    assert REPORT.encode() == (
        b'{"v":1,"device":"board-1","device_class":"board-arm64","machine":{"isa":'
        b'["aarch64","dotprod"],"memory_mb":900,"cpus":4,"runtime":"1.24","providers":'
        b'[],"simulated":false},"measured":"2026-11-01T12:00:00Z","variant_sha256":"'
        + b"a" * 64
        + b'","float_sha256":"'
        + b"b" * 64
        + b'","session":{"threads":1,"arena":true,"prepack":true,"precise":false},'
        b'"variant":{"p50_ms":2.0,"p90_ms":3.0,"p99_ms":4.0,"cpu_ms":2.0},"reference":'
        b'{"p50_ms":2.0,"p90_ms":3.0,"p99_ms":4.0,"cpu_ms":2.0},"ratio":0.5,'
        b'"peak_memory_mb":80.0,"load_ms":20.0}'
    )


def test_a_kept_latency_is_found_again(tmp_path: Path) -> None:
    known = Known(tmp_path / "latencies")
    known.keep(REPORT)

    found = known.lookup(Key.of(REPORT))

    assert found.report == REPORT
    assert found.note == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"variant_sha256": "c" * 64},
        {"float_sha256": "c" * 64},
        {"device_class": "board-512mb"},
        {"session": Session(threads=2)},
    ],
)
def test_a_latency_of_something_else_is_not_taken(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    known = Known(tmp_path)
    known.keep(REPORT)

    other = Key.of(REPORT.model_copy(update=changes))

    assert known.lookup(other).report is None


def test_an_older_measurement_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    known = Known(tmp_path)
    older = REPORT.model_copy(update={"measured": NOON - timedelta(days=1)})
    kept = known.keep(REPORT), known.keep(older)

    assert kept == (True, False)
    assert known.lookup(Key.of(REPORT)).report == REPORT


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"v":2}', REPORT.encode()[:-20], b" " * 20_000],
)
def test_a_damaged_entry_is_passed_over_and_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / Key.of(REPORT).file
    path.write_bytes(data)

    found = Known(tmp_path).lookup(Key.of(REPORT))

    assert found.report is None
    assert str(path) in found.note


def test_an_entry_under_anothers_name_is_not_believed(tmp_path: Path) -> None:
    asked = Key.of(REPORT.model_copy(update={"variant_sha256": "c" * 64}))
    (tmp_path / asked.file).write_bytes(REPORT.encode())

    found = Known(tmp_path).lookup(asked)

    assert found.report is None
    assert "of another variant" in found.note


def test_what_was_kept_longest_ago_goes_when_there_are_too_many(
    tmp_path: Path,
) -> None:
    known = Known(tmp_path, most=2)
    reports = [REPORT.model_copy(update={"variant_sha256": c * 64}) for c in "abc"]
    for age, report in enumerate(reports):
        known.keep(report)
        utime(tmp_path / Key.of(report).file, (age, age))
    known.keep(reports[2])

    assert known.lookup(Key.of(reports[0])).report is None
    assert known.lookup(Key.of(reports[1])).report is not None


# ---- sources -------------------------------------------------------------------------


def test_a_device_of_the_class_is_believed_before_this_machine(tmp_path: Path) -> None:
    known = Known(tmp_path)
    known.keep(REPORT)
    sources = First((Brought(known), Here(here, ("x86-64",))))

    told = sources.measure(question())

    assert isinstance(told, Told)
    assert told.known == "reference"
    assert told.measured.ratio == 0.5


def test_this_machine_answers_when_no_device_did(tmp_path: Path) -> None:
    sources = First((Brought(Known(tmp_path)), Here(here, ("x86-64",))))

    told = sources.measure(question())

    assert told == Told(HERE, "estimated")


def test_a_machine_of_the_class_measures() -> None:
    told = Here(here, ("aarch64", "dotprod")).measure(question())

    assert told == Told(HERE, "measured")


def test_a_damaged_entry_is_said_beside_this_machines_answer(tmp_path: Path) -> None:
    (tmp_path / question().key.file).write_bytes(b"{")
    sources = First((Brought(Known(tmp_path)), Here(here, ("x86-64",))))

    told = sources.measure(question())

    assert isinstance(told, Told)
    assert "passed over" in told.notes[0]


def test_a_class_that_names_its_reference_device_believes_no_other(
    tmp_path: Path,
) -> None:
    known = Known(tmp_path)
    known.keep(REPORT)
    profile = load_profile("board-arm64")
    naming = profile.known.model_copy(update={"reference": "board-2"})
    asked = replace(question(), profile=profile.model_copy(update={"known": naming}))

    told = Brought(known).measure(asked)

    assert isinstance(told, str)
    assert "board-1 is passed over" in told
