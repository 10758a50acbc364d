"""What the quantization benchmark judges, and what it makes of its figures."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.bench.quantization.feed import sample
from tests.bench.quantization.fetch import Package, UnavailableError, unpacked
from tests.bench.quantization.judge import JUDGES, character_errors
from tests.bench.quantization.row import Row, keep_row, kept_row
from tests.bench.quantization.spoil import SPOILS, spoilt
from tests.bench.quantization.table import render
from tests.bench.quantization.targets import Budget, Verdict, verdicts, violations
from tests.bench.quantization.task import LABELS

BUDGET = Budget(drop=1.0, latency=1.0, size=0.6)
BEST = "ours gateway-x86-vnni"


def accepted(drop: float = 0.5, size: float = 0.25, latency: float = 0.7) -> Row:
    return Row(
        "rec",
        BEST,
        samples=9,
        decision="accepted",
        bytes=1,
        drop=drop,
        size_ratio=size,
        latency_ratio=latency,
    )


def float_row(size: int = 10_000_000) -> Row:
    return Row("rec", "float", samples=9, score=0.9, bytes=size)


# judging ------------------------------------------------------------------------------


def test_lines_are_decoded_without_blanks_and_repeats() -> None:
    steps = np.eye(4, dtype=np.float32)[[0, 2, 2, 0, 2, 3, 3, 0]][None]
    truth = {LABELS: np.array([[2, 2, 3, -1]])}

    answers = JUDGES["line"].answers([[steps]])

    assert answers == ["2 2 3"]
    assert JUDGES["line"].right(answers, truth).all()


def test_wrong_characters_are_counted_over_the_truths_characters() -> None:
    truth = {LABELS: np.array([[1, 2, 3, 4], [5, 6, -1, -1]])}

    assert character_errors(["1 3 4", "5 6"], truth) == pytest.approx(1 / 6)


def test_a_query_must_find_the_text_of_its_label() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.9, 0.1], [0.8, 0.2]], np.float32)
    outputs = [[vector[None]] for vector in vectors]

    answers = JUDGES["found"].answers(outputs)

    labels = {LABELS: np.array([0, 1, 1, 0])}
    assert answers == ["0", "1"]
    assert JUDGES["found"].right(answers, labels).tolist() == [False, False]
    crossed = {LABELS: np.array([0, 1, 0, 1])}
    assert JUDGES["found"].right(answers, crossed).all()


def test_samples_that_are_whole_tensors_are_fed_without_a_batch() -> None:
    class Input:
        def __init__(self, name: str, shape: list[object]) -> None:
            self.name, self.shape = name, shape

    data = {"x": np.zeros((3, 4)), "state": np.zeros((3, 2, 1, 8)), "rate": np.ones(3)}
    inputs = [Input("x", ["n", 4]), Input("state", [2, "n", 8]), Input("rate", [])]

    fed = sample(data, inputs, 1)

    shapes = {name: array.shape for name, array in fed.items()}
    assert shapes == {"x": (1, 4), "state": (2, 1, 8), "rate": ()}


# targets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (accepted(drop=1.2), "1.20 points"),
        (accepted(latency=1.2), "1.20 of float's time"),
        (accepted(size=0.7), "0.70 of float's size"),
    ],
)
def test_an_accepted_variant_past_its_budget_is_a_violation(
    row: Row, says: str
) -> None:
    found = violations(row, BUDGET)

    assert len(found) == 1
    assert says in found[0]


def test_an_accepted_variant_that_does_not_run_is_a_violation() -> None:
    row = Row("rec", BEST, failure="killed by SIGSEGV", decision="accepted")

    assert violations(row, BUDGET)


def test_what_was_refused_violates_nothing() -> None:
    row = Row("rec", BEST, decision="refused", drop=50.0, latency_ratio=9.0)

    assert violations(row, BUDGET) == []


def test_a_target_is_met_only_by_an_accepted_variant() -> None:
    refused = Row("rec", BEST, decision="refused", drop=0.0)
    shown = {"gateway-x86-vnni": BUDGET}

    met = verdicts([float_row(), accepted()], shown)
    missed = verdicts([float_row(), refused], shown)

    assert _of("rec: ", met).met
    assert _of("rec: ", missed).met is False


def test_a_target_without_a_figure_is_not_measured() -> None:
    found = verdicts([float_row(), accepted()], {"gateway-x86-vnni": BUDGET})

    assert _of("minilm", found).met is None
    assert "not measured" in render([accepted()], found)


def _of(start: str, found: list[Verdict]) -> Verdict:
    return next(one for one in found if one.target.startswith(start))


def test_the_table_tells_what_failed_and_why() -> None:
    shown = render([float_row(), Row("rec", "nncf", failure="killed by SIGSEGV")], [])

    assert "killed by SIGSEGV" in shown
    assert "rec (n=9)" in shown


def test_a_row_is_kept_whole(tmp_path: Path) -> None:
    row = Row("rec", BEST, told=(0.9, 0.1, 0.7), errors=0.02)

    keep_row(tmp_path / "row.json", row)

    assert kept_row(tmp_path / "row.json") == row


# fetching -----------------------------------------------------------------------------


def test_a_package_of_another_digest_is_refused(tmp_path: Path) -> None:
    package = Package("apt-get", "music", "music.deb", "0" * 64)
    (tmp_path / "music.deb").write_bytes(b"not what was pinned")

    with pytest.raises(UnavailableError, match="is pinned"):
        list(unpacked(package, tmp_path))


def test_files_of_a_debian_package_are_read(tmp_path: Path) -> None:
    deb = _deb({"./usr/share/a.wav": b"sound", "./usr/doc": b"text"})
    package = Package("apt-get", "music", "music.deb", hashlib.sha256(deb).hexdigest())
    (tmp_path / "music.deb").write_bytes(deb)

    found = list(unpacked(package, tmp_path, "usr/share/"))

    assert found == [("usr/share/a.wav", b"sound")]


def _deb(files: dict[str, bytes]) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    parts = (("debian-binary", b"2.0\n"), ("data.tar", tar.getvalue()))
    out = b"!<arch>\n"
    for name, data in parts:
        out += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


# spoiling -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", sorted(SPOILS))
def test_a_spoilt_model_still_loads(how: str, tmp_path: Path) -> None:
    source, out = tmp_path / "float.onnx", tmp_path / "spoilt.onnx"
    weights = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), source)

    spoilt(how, source, out)

    asked = np.ones((2, 16), np.float32)
    before, after = (
        ort.InferenceSession(str(file)).run(["y"], {"x": asked})[0]
        for file in (source, out)
    )
    harmless = how in ("slow", "fat")
    assert np.allclose(before, after) == harmless
