"""Real kernels on emulated processors; skipped where the emulator is not installed."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from quarterdeck_controller.optimize.data.stored import Array, Stored
from quarterdeck_controller.optimize.evaluation import GoldenMeasured
from quarterdeck_controller.optimize.golden import scale_of
from quarterdeck_controller.optimize.measure.emulate import Emulator, run_emulated
from quarterdeck_controller.optimize.measure.fidelity import (
    HERE,
    fidelity,
    is_faithful,
    loses_db,
)
from quarterdeck_controller.optimize.measure.machine import machine_isa
from quarterdeck_controller.optimize.measure.run import run
from quarterdeck_controller.optimize.steps import RunRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session
from tests.support.emulated import emulator
from tests.support.saturating import (
    IR_VERSION,
    Weights,
    float_model,
    positive_samples,
    quantized_model,
    store_samples,
)

SECONDS = 90
PRECISE = Session(precise=True)
needs_vnni = pytest.mark.skipif(
    not {"avx512-vnni", "avx-vnni"} & set(machine_isa()),
    reason="this machine has no VNNI to compare with",
)


def request(
    folder: Path, model: Path, session: Session | None = None, batch: int = 8
) -> RunRequest:
    return RunRequest(
        model=model,
        out=folder / f"{model.stem}-out",
        samples=store_samples(folder / "samples", positive_samples(16)),
        session=session or Session(),
        batch=batch,
    )


def here_and_there(
    folder: Path, processor: str, weights: Weights, session: Session | None = None
) -> tuple[GoldenMeasured, GoldenMeasured]:
    model = quantized_model(folder / "int8.onnx", weights)
    expected = answers(request(folder, float_model(folder / "float.onnx")), None)
    native = answers(request(folder, model, session), None)
    got = answers(request(folder, model, session), emulator(processor))
    return (
        fidelity(HERE, expected, native, scale_of(expected)),
        fidelity(processor, expected, got, scale_of(expected)),
    )


def answers(asked: RunRequest, there: Emulator | None) -> Array:
    out = asked.out.with_name(f"{asked.out.name}-{there and there.processor}")
    asked = asked.model_copy(update={"out": out})
    if there is None:
        run(asked)
    else:
        run_emulated(there, asked, seconds=SECONDS)
    return Stored.open(out).array("y")


@needs_vnni
def test_signed_weights_lose_six_decibels_where_products_saturate(
    tmp_path: Path,
) -> None:
    here, there = here_and_there(tmp_path, "Haswell", "s8")

    assert loses_db(here, there) >= 6
    assert not is_faithful(here, there)


@needs_vnni
@pytest.mark.parametrize(
    ("weights", "session"), [("u8", None), ("s7", None), ("s8", PRECISE)]
)
def test_what_is_made_for_avx2_answers_there_as_with_vnni(
    tmp_path: Path, weights: Weights, session: Session | None
) -> None:
    here, there = here_and_there(tmp_path, "Haswell", weights, session)

    assert is_faithful(here, there), (here, there)


@needs_vnni
@pytest.mark.parametrize("processor", ["cortex-a53", "cortex-a76"])
def test_signed_weights_answer_on_aarch64_as_with_vnni(
    tmp_path: Path, processor: str
) -> None:
    here, there = here_and_there(tmp_path, processor, "s8")

    assert is_faithful(here, there), (here, there)


def test_rows_are_run_in_the_order_they_are_asked_for(tmp_path: Path) -> None:
    model = float_model(tmp_path / "float.onnx")
    asked = request(tmp_path, model).model_copy(update={"rows": (9, 2, 4), "batch": 2})

    count = run_emulated(emulator("Haswell"), asked, seconds=SECONDS).count

    x = positive_samples(16)[[9, 2, 4]]
    expected = ort.InferenceSession(str(model)).run(None, {"x": x})[0]
    got = Stored.open(asked.out).array("y")
    assert count == 3
    assert got.shape == expected.shape
    assert np.allclose(got, expected, rtol=1e-3)


def test_weights_beside_the_model_and_outputs_without_a_batch_are_there_too(
    tmp_path: Path,
) -> None:
    model = onnx.load(float_model(tmp_path / "float.onnx"))
    model.graph.node.append(helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0))
    model.graph.output.append(
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])
    )
    path = tmp_path / "split.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w", size_threshold=0)
    asked = request(tmp_path, path, batch=1)

    run_emulated(emulator("Haswell"), asked, seconds=SECONDS)

    out = Stored.open(asked.out)
    assert out.array("sum").shape == (16,)
    assert np.allclose(out.array("sum"), out.array("y").sum(axis=(1, 2)), rtol=1e-3)


def test_an_output_without_a_batch_is_refused_for_several_samples(
    tmp_path: Path,
) -> None:
    model = onnx.load(float_model(tmp_path / "float.onnx"))
    model.graph.node.append(helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0))
    model.graph.output.append(
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])
    )
    path = tmp_path / "sum.onnx"
    onnx.save(model, path)

    with pytest.raises(RejectedError, match="sum is not the batch") as refused:
        run_emulated(emulator("Haswell"), request(tmp_path, path), seconds=SECONDS)

    assert refused.value.code is Code.MODEL_INVALID


def test_a_file_that_is_no_model_is_refused_with_the_runtimes_words(
    tmp_path: Path,
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")

    with pytest.raises(RejectedError, match=r"emulated Haswell: .*broken") as refused:
        run_emulated(emulator("Haswell"), request(tmp_path, path), seconds=SECONDS)

    assert refused.value.code is Code.MODEL_INVALID
    assert "warning" not in refused.value.detail


def test_a_model_that_does_not_end_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    asked = request(tmp_path, endless_model(tmp_path / "endless.onnx"), batch=1)

    with pytest.raises(RejectedError, match="did not end within 6 s"):
        run_emulated(emulator("Haswell"), asked, seconds=6)

    assert not processes_of(tmp_path)
    assert not list(tmp_path.glob("emulated-*"))


def test_an_emulator_without_memory_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path, float_model(tmp_path / "float.onnx"))

    with pytest.raises(RejectedError) as refused:
        run_emulated(emulator("Haswell"), asked, seconds=SECONDS, memory_mb=200)

    assert refused.value.code is Code.INCOMPATIBLE


def test_an_emulator_of_another_processor_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path, float_model(tmp_path / "float.onnx"))
    impostor = replace(emulator("SandyBridge"), processor="Haswell")

    with pytest.raises(RejectedError, match="emulated Haswell has no AVX2"):
        run_emulated(impostor, asked, seconds=SECONDS)


def test_an_emulator_that_is_gone_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path, float_model(tmp_path / "float.onnx"))
    gone = Emulator("Haswell", (str(tmp_path / "qemu"),), "1.0")

    with pytest.raises(RejectedError, match="cannot be started: No such file"):
        run_emulated(gone, asked, seconds=SECONDS)


def test_the_emulator_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    asked = request(tmp_path, endless_model(tmp_path / "endless.onnx"), batch=1)
    emulator("cortex-a53")
    words = (asked.model_dump_json(), "cortex-a53")
    parent = subprocess.Popen([sys.executable, "-c", ASK, *words])
    started = wait_for(lambda: list(tmp_path.glob("emulated-*/processor.json")))

    parent.kill()
    parent.wait()

    assert started
    assert wait_for(lambda: not processes_of(tmp_path))


ASK = """
import sys
from quarterdeck_controller.optimize.measure.emulate import find_emulator, run_emulated
from quarterdeck_controller.optimize.steps import RunRequest

asked = RunRequest.model_validate_json(sys.argv[1])
run_emulated(find_emulator(sys.argv[2]), asked, seconds=600)
"""


def wait_for(condition: Callable[[], object], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def endless_model(path: Path) -> Path:
    """Write a model that counts further than anybody waits."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["held", "held"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    times = helper.make_tensor("times", TensorProto.INT64, [], [1 << 60])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [times, yes],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION), path
    )
    return path


def processes_of(folder: Path) -> list[str]:
    """Return the command lines that name ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text("utf-8", "replace")
        except OSError:
            continue
        found += [words] if str(folder) in words else []
    return found
