"""Running, auditing and measuring small models made for the purpose, on the runtime."""

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.data.stored import Array, Stored, Writer
from quarterdeck_controller.optimize.measure.audit import audit
from quarterdeck_controller.optimize.measure.machine import machine_capabilities
from quarterdeck_controller.optimize.measure.on_device import measure_on_device
from quarterdeck_controller.optimize.measure.run import run
from quarterdeck_controller.optimize.profile import load_profile
from quarterdeck_controller.optimize.sandbox import Sandbox
from quarterdeck_controller.optimize.session import (
    infer,
    open_session,
    open_with,
    options_of,
)
from quarterdeck_controller.optimize.steps import (
    Audit,
    AuditRequest,
    Measured,
    MeasureRequest,
    RunRequest,
)
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session

IMAGE = (3, 8, 8)
rng = np.random.default_rng(0)
INT_WEIGHTS = rng.integers(-127, 127, (8, 3, 3, 3)).astype(np.int8)


def node(
    operator: str, inputs: str, output: str, **settings: int | onnx.GraphProto
) -> NodeProto:
    made = helper.make_node(operator, inputs.split(), output.split())
    made.attribute.extend(
        helper.make_attribute(name, value) for name, value in settings.items()
    )
    return made


def save(
    folder: Path,
    nodes: list[NodeProto],
    constants: dict[str, Array],
    *,
    shape: tuple[int | str, ...] = ("n", *IMAGE),
    outputs: tuple[str, ...] = ("y",),
    dtype: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    path = folder / f"model-{len(list(folder.glob('*.onnx')))}.onnx"
    onnx.save(model, path)
    return path


def store(folder: Path, *samples: Array) -> Path:
    """Write one input ``x``; every array holds samples of one shape."""
    with Writer(folder / "samples") as writer:
        for array in samples:
            writer.add({"x": array})
    return folder / "samples"


def images(count: int = 3) -> Array:
    return np.random.default_rng(1).standard_normal((count, *IMAGE)).astype(np.float32)


def audited(folder: Path, model: Path, session: Session | None = None) -> Audit:
    samples = store(folder, images())
    request = AuditRequest(model=model, samples=samples, session=session or Session())
    return audit(request)


def float_conv(folder: Path) -> Path:
    weights = INT_WEIGHTS.astype(np.float32)
    return save(folder, [node("Conv", "x w", "y")], {"w": weights})


def quantized_conv(folder: Path, *, ends: str = "int8", act: type = np.uint8) -> Path:
    """Write a convolution between Q/DQ, or one whose output is not quantized again."""
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w ws wz", "wd"),
        node("Conv", "d wd", "c"),
    ]
    if ends == "int8":
        nodes += [
            node("QuantizeLinear", "c s2 z", "q2"),
            node("DequantizeLinear", "q2 s2 z", "y"),
        ]
    else:
        nodes += [node("Relu", "c", "y")]
    constants: dict[str, Array] = {
        "w": INT_WEIGHTS,
        "s": np.array(0.02, np.float32),
        "z": np.array(128, act),
        "ws": np.array(0.01, np.float32),
        "wz": np.array(0, np.int8),
        "s2": np.array(0.1, np.float32),
    }
    return save(folder, nodes, constants)


# ---- audit ---------------------------------------------------------------------------


def test_a_float_convolution_is_heavy_float(tmp_path: Path) -> None:
    found = audited(tmp_path, float_conv(tmp_path))

    assert (found.integer, found.heavy_float, found.conversions) == (0, 1, 0)
    assert sum(kernel.share for kernel in found.kernels) == pytest.approx(1)


def test_a_convolution_between_q_and_dq_is_fused_to_integers(tmp_path: Path) -> None:
    found = audited(tmp_path, quantized_conv(tmp_path))

    assert (found.integer, found.heavy_float, found.conversions) == (1, 0, 2)
    assert 0 < found.conversion_share < 1
    assert "QLinearConv:1" in found.fingerprint


@pytest.mark.parametrize(
    ("ends", "act"), [("float", np.uint8), ("int8", np.uint16)], ids=["open", "wide"]
)
def test_what_the_runtime_does_not_fuse_is_seen(
    tmp_path: Path, ends: str, act: type
) -> None:
    found = audited(tmp_path, quantized_conv(tmp_path, ends=ends, act=act))

    assert (found.integer, found.heavy_float) == (0, 1)
    assert found.conversions >= 3


def test_weights_behind_cast_and_mul_are_folded_to_float(tmp_path: Path) -> None:
    nodes = [
        node("Cast", "w", "f", to=TensorProto.FLOAT),
        node("Mul", "f scale", "wf"),
        node("Conv", "x wf", "y"),
    ]
    scale = np.full((8, 1, 1, 1), 0.01, np.float32)
    model = save(tmp_path, nodes, {"w": INT_WEIGHTS, "scale": scale})

    found = audited(tmp_path, model)

    assert (found.integer, found.heavy_float, found.conversions) == (0, 1, 0)
    assert {"Cast", "Mul"}.isdisjoint(kernel.operator for kernel in found.kernels)


def test_a_dynamic_product_runs_on_integers(tmp_path: Path) -> None:
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulInteger", "q w z wz", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "f s", "y"),
    ]
    constants: dict[str, Array] = {
        "w": rng.integers(-9, 9, (8, 4)).astype(np.int8),
        "wz": np.array(0, np.int8),
    }

    found = audited(tmp_path, save(tmp_path, nodes, constants))

    assert (found.integer, found.heavy_float) == (1, 0)


def test_kernels_inside_control_flow_are_counted_whether_they_ran_or_not(
    tmp_path: Path,
) -> None:
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        weights = [numpy_helper.from_array(INT_WEIGHTS.astype(np.float32), f"{name}_w")]
        nodes = [node("Conv", f"x {name}_w", f"{name}_y")]
        return helper.make_graph(nodes, name, [], [out], weights)

    nodes = [
        node("ReduceMax", "x", "most", keepdims=0),
        node("Greater", "most zero", "go"),
        node("If", "go", "y", then_branch=branch("a"), else_branch=branch("b")),
    ]
    model = save(tmp_path, nodes, {"zero": np.array(0, np.float32)})

    found = audited(tmp_path, model)

    assert found.heavy_float == 2
    shares = {kernel.operator: kernel.share for kernel in found.kernels}
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0


def test_a_model_that_the_runtime_cannot_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")

    with pytest.raises(RejectedError, match="onnxruntime cannot open") as refused:
        audited(tmp_path, path)

    assert refused.value.code is Code.MODEL_INVALID


# ---- session -------------------------------------------------------------------------


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an option of x86 alone")
@pytest.mark.parametrize(("precise", "dtype"), [(False, "INT8"), (True, "UINT8")])
def test_precise_widens_what_saturates(
    tmp_path: Path, *, precise: bool, dtype: str
) -> None:
    options = options_of(Session(precise=precise))
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    open_with(quantized_conv(tmp_path), options)

    kept = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    types = [TensorProto.DataType.Name(one.data_type) for one in kept if one.dims]
    assert dtype in types


def test_every_way_to_open_a_model_gives_the_same_answers(tmp_path: Path) -> None:
    model, feed = float_conv(tmp_path), {"x": images(1)}
    ways = [Session(), Session(threads=2), Session(arena=False, prepack=False)]

    answers = [infer(open_session(model, way), None, feed)[0] for way in ways]

    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-5)


# ---- run -----------------------------------------------------------------------------


def ran(folder: Path, model: Path, samples: Path, **asked: object) -> Stored:
    request = RunRequest.model_validate(
        {
            "model": model,
            "out": folder / "out",
            "samples": samples,
            "session": Session(),
            "batch": 1,
            **asked,
        }
    )
    assert run(request).count == Stored.open(folder / "out").count
    return Stored.open(folder / "out")


def test_outputs_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    model = save(tmp_path, [node("Neg", "x", "y")], {}, shape=("n", 2))
    samples = store(tmp_path, np.arange(10, dtype=np.float32).reshape(5, 2))

    found = ran(tmp_path, model, samples, rows=(4, 0, 2), batch=2)

    assert found.array("y").tolist() == [[-8, -9], [0, -1], [-4, -5]]


def test_samples_of_different_lengths_are_run_one_by_one(tmp_path: Path) -> None:
    model = save(tmp_path, [node("Neg", "x", "y")], {}, shape=("n", "t"))
    samples = store(tmp_path, np.ones((1, 2), np.float32), np.ones((1, 5), np.float32))

    found = ran(tmp_path, model, samples, batch=8)

    assert [one.shape for one in found.samples("y")] == [(2,), (5,)]


def test_every_output_is_stored_and_one_without_a_batch_is_whole(
    tmp_path: Path,
) -> None:
    nodes = [
        node("Neg", "x", "y"),
        node("ReduceSum", "x", "total", keepdims=0),
        node("Transpose", "x", "turned"),
    ]
    outputs = ("y", "total", "turned")
    model = save(tmp_path, nodes, {}, shape=("n", 3), outputs=outputs)
    samples = store(tmp_path, np.arange(6, dtype=np.float32).reshape(2, 3))

    found = ran(tmp_path, model, samples)

    assert found.names == outputs
    assert found.array("y").tolist() == [[0, -1, -2], [-3, -4, -5]]
    assert found.array("total").tolist() == [3, 12]
    assert found.array("turned").shape == (2, 3, 1)


def test_an_output_that_only_sometimes_has_one_entry_is_whole_for_all(
    tmp_path: Path,
) -> None:
    nodes = [node("NonZero", "x", "i"), node("Transpose", "i", "y")]
    graph = save(tmp_path, nodes, {}, shape=("n", 4))
    model = onnx.load(graph)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, graph)
    samples = store(tmp_path, np.array([[0, 0, 1, 0], [1, 1, 0, 0]], np.float32))

    found = ran(tmp_path, graph, samples)

    assert [one.tolist() for one in found.samples("y")] == [[[0, 2]], [[0, 0], [0, 1]]]


def test_scores_that_are_not_finite_are_stored_as_they_are(tmp_path: Path) -> None:
    model = save(tmp_path, [node("Log", "x", "y")], {}, shape=("n", 2))
    samples = store(tmp_path, np.array([[0, -1], [1, 1]], np.float32))

    found = ran(tmp_path, model, samples, batch=2)

    np.testing.assert_array_equal(found.array("y"), [[-np.inf, np.nan], [0, 0]])


def test_several_at_once_are_refused_where_an_output_has_no_batch(
    tmp_path: Path,
) -> None:
    model = save(
        tmp_path, [node("ReduceSum", "x", "y", keepdims=0)], {}, shape=("n", 2)
    )
    samples = store(tmp_path, np.ones((4, 2), np.float32))

    with pytest.raises(RejectedError, match="first dimension is not the batch"):
        ran(tmp_path, model, samples, batch=4)


def test_a_model_that_fails_on_a_sample_is_refused_with_why(tmp_path: Path) -> None:
    constants: dict[str, Array] = {"far": np.array([9], np.int64)}
    model = save(tmp_path, [node("Gather", "x far", "y", axis=1)], constants)

    with pytest.raises(RejectedError, match="onnxruntime cannot run") as refused:
        ran(tmp_path, model, store(tmp_path, images()))

    assert refused.value.code is Code.MODEL_INVALID


# ---- measure -------------------------------------------------------------------------


def product(folder: Path, width: int) -> Path:
    weights = np.ones((width, 512), np.float32)
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")]
    constants: dict[str, Array] = {"w": weights.T.copy(), "v": weights}
    return save(folder, nodes, constants, shape=("n", 512))


def measured(folder: Path, model: Path, reference: Path | None) -> Measured:
    samples = store(folder, np.ones((1, 512), np.float32))
    request = MeasureRequest(
        model=model, reference=reference, samples=samples, session=Session()
    )
    return Sandbox(folder / f"steps-{model.stem}").run("measure", request, Measured)


def test_a_model_takes_as_long_as_itself(tmp_path: Path) -> None:
    model = product(tmp_path, 256)

    found = measured(tmp_path, model, model)

    assert found.ratio is not None
    assert 0.8 < found.ratio < 1.25
    assert 0 < found.times.p50_ms <= found.times.p90_ms <= found.times.p99_ms
    assert found.times.cpu_ms > 0
    assert found.load_ms > 0


def test_peak_memory_is_the_models_own_and_not_its_references(tmp_path: Path) -> None:
    small, large = product(tmp_path, 256), product(tmp_path, 16384)

    beside_large = measured(tmp_path, small, large).peak_memory_mb
    alone = measured(tmp_path, large, None)

    assert alone.peak_memory_mb - beside_large > 60  # 64 MiB of weights
    assert alone.ratio is None
    assert alone.reference_times is None


def test_a_machine_of_the_class_measures_for_the_controller(tmp_path: Path) -> None:
    profile = load_profile("gateway-x86")
    machine = machine_capabilities().model_copy(
        update={"isa": profile.isa, "memory_mb": 4096}
    )
    model = product(tmp_path, 256)
    np.savez(tmp_path / "samples.npz", x=np.ones((3, 512), np.float32))

    report = measure_on_device(
        model,
        model,
        str(tmp_path / "samples.npz"),
        profile,
        machine=machine,
        sandbox=Sandbox(tmp_path / "steps"),
        clock=SystemClock(),
        device="gate-1",
    )

    assert report.variant_sha256 == report.float_sha256
    assert (report.device, report.device_class) == ("gate-1", "gateway-x86")
    assert 0.8 < report.ratio < 1.25
