"""What ruins models elsewhere without an error, put before the whole optimizer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.data.samples import Array, Data, Samples
from quarterdeck_controller.optimize.optimizer import Optimization, Options, optimize
from quarterdeck_controller.optimize.profile import Profile, load_profile
from quarterdeck_controller.optimize.recipe import Kind
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.bench.quantization.inject import Judgement, judged
from tests.bench.quantization.spoil import WAYS, spoilt
from tests.bench.quantization.task import Task
from tests.support import saturating
from tests.support.emulated import emulator
from tests.support.small_model import (
    lenient_profile,
    make_samples,
    save_npz,
    trained,
)

CLASS = "gateway-x86-vnni"
RNG = np.random.default_rng(0)


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def build(
    nodes: list[onnx.NodeProto],
    constants: list[TensorProto],
    *,
    takes: tuple[int | str, ...],
    gives: tuple[int | str, ...] = ("n", 4),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, takes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, gives)],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


# a bad variant is refused, whatever is bad about it --------------------------------


def waves() -> onnx.ModelProto:
    model = trained()
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])
    model.graph.output[0].CopyFrom(output)
    return model


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("waves")
    onnx.save(waves(), folder / "m.onnx")
    calibration = Samples(make_samples(1, 64).inputs)
    return Task(
        name="waves",
        model=folder / "m.onnx",
        calibration=save_npz(folder / "c.npz", calibration),
        evaluation=save_npz(folder / "e.npz", make_samples(2, 400)),
        metric="",
        judge="",
        notes="",
    )


def roomy(
    folder: Path, *, latency: float, memory_mb: int, emulate: str = ""
) -> Profile:
    profile = load_profile(str(lenient_profile(CLASS, folder)))
    changed = {"size_ratio": 1.2, "latency_ratio": latency, "memory_mb": memory_mb}
    budget = profile.budget.model_copy(update=changed)
    known = profile.known.model_copy(update={"emulate": emulate})
    return profile.model_copy(update={"budget": budget, "known": known})


def appended(
    operator: str, *constants: TensorProto, **attributes: int
) -> onnx.ModelProto:
    """Return the model with an operator behind its scores."""
    model = waves()
    model.graph.node[-1].output[0] = "before"
    names = [tensor.name for tensor in constants]
    node = helper.make_node(operator, ["before", *names], ["scores"])
    for name, value in attributes.items():
        node.attribute.append(helper.make_attribute(name, value))
    model.graph.node.append(node)
    model.graph.initializer.extend(constants)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def hungry() -> onnx.ModelProto:
    """Return the model with a quarter of a gigabyte of zeros made on the way."""
    size = numpy_helper.from_array(np.array([64 << 20], np.int64), "size")
    none = numpy_helper.from_array(np.array(0, np.float32), "none")
    model = appended("Add")
    model.graph.node[-1].input.append("zero")
    model.graph.initializer.extend([size, none])
    made = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "none"], ["nothing"]),
        helper.make_node("Expand", ["nothing", "size"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
    ]
    kept = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def deadly() -> onnx.ModelProto:
    """Return a valid model at which onnxruntime 1.32 ends its process."""

    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        node = helper.make_node("Identity", ["moved"], [name])
        return helper.make_graph([node], name, [], [output])

    model = appended("QuantizeLinear")
    model.graph.node[-1].input.extend(["s", "z"])
    model.graph.node[-1].output[0] = "q"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1 / 255, np.float32), "s"),
            numpy_helper.from_array(np.array(0, np.uint8), "z"),
            numpy_helper.from_array(np.array([-1, 4], np.int64), "shape"),
            numpy_helper.from_array(np.array(0, np.float32), "limit"),
        ]
    )
    branches = {"then_branch": branch("a"), "else_branch": branch("b")}
    model.graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("Reshape", ["d", "shape"], ["moved"]),
            helper.make_node("ReduceMax", ["moved"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "limit"], ["large"]),
            helper.make_node("If", ["large"], ["scores"], **branches),
        ]
    )
    return model


UNFIT: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "takes too much memory": (hungry, "peak memory"),
    "gives another shape": (
        partial(appended, "Unsqueeze", numpy_helper.from_array(np.array([2]), "axis")),
        "shape",
    ),
    "gives whole numbers": (partial(appended, "Cast", to=TensorProto.INT32), ""),
    "ends the runtime": (deadly, "crashed (SIGABRT)"),
}


AS_IT_IS = "as it is"


@pytest.fixture(scope="module")
def judgements(
    task: Task, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Judgement]:
    """What the gate says of every variant, in one optimization."""
    folder = tmp_path_factory.mktemp("variants")
    files = {name: folder / f"{name}.onnx" for name in (AS_IT_IS, *WAYS, *UNFIT)}
    onnx.save(waves(), files[AS_IT_IS])
    for way in WAYS:
        spoilt(way, task.model, files[way])
    for name, (make, _) in UNFIT.items():
        onnx.save(make(), files[name])
    profile = roomy(folder, latency=5, memory_mb=200)
    return {one.name: one for one in judged(task, profile, files)}


def test_the_model_itself_is_accepted(judgements: dict[str, Judgement]) -> None:
    assert judgements[AS_IT_IS].accepted, judgements[AS_IT_IS].reason


@pytest.mark.parametrize("way", WAYS)
def test_a_model_spoilt_on_purpose_is_refused_with_why(
    way: str, judgements: dict[str, Judgement]
) -> None:
    assert not judgements[way].accepted
    assert judgements[way].reason


@pytest.mark.parametrize("what", UNFIT)
def test_a_variant_that_a_device_could_not_use_is_refused(
    what: str, judgements: dict[str, Judgement]
) -> None:
    assert not judgements[what].accepted
    assert UNFIT[what][1] in judgements[what].reason


@pytest.mark.parametrize(("weights", "holds"), [("s8", False), ("s7", True)])
def test_integers_that_saturate_on_processors_of_the_class_are_refused(
    weights: saturating.Weights, holds: bool, tmp_path: Path
) -> None:
    processor = emulator("Haswell").processor
    samples = {"x": saturating.positive_samples(48)}
    file = saturating.float_model(tmp_path / "m.onnx")
    data = save_npz(tmp_path / "d.npz", Samples(samples))
    brought = Task("saturating", file, data, data, "", "", "")
    profile = roomy(tmp_path, latency=900, memory_mb=2000, emulate=processor)
    lax = profile.budget.model_copy(update={"min_agreement": 0.0})
    profile = profile.model_copy(update={"budget": lax})

    variant = saturating.quantized_model(tmp_path / "v.onnx", weights)
    (found,) = judged(brought, profile, {"put in": variant})

    assert found.accepted == holds, found.reason
    assert ("on Haswell" in found.reason) != holds


# models at which a flag fails without a word ---------------------------------------


def run(
    model: onnx.ModelProto | Path,
    inputs: Array,
    folder: Path,
    *kinds: Kind,
    cache: Path | None = None,
) -> Optimization:
    path = model if isinstance(model, Path) else folder / "m.onnx"
    if not isinstance(model, Path):
        onnx.save(model, path)
    samples = Samples({"x": inputs})
    profile = load_profile(str(lenient_profile(CLASS, folder)))
    options = Options(kinds=kinds, time_budget_s=0, cache=cache)
    return optimize(path, Data(samples, samples), profile, options=options)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def product(weights: TensorProto | None = None, *, width: int = 64) -> onnx.ModelProto:
    held = weight("w", width, 4) if weights is None else weights
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return build([node], [held], takes=("n", width))


def test_a_net_too_small_to_shrink_is_refused_for_its_size(tmp_path: Path) -> None:
    result = run(product(width=6), normal(30, 6), tmp_path)

    assert not result.accepted
    assert result.evaluation.reason


def test_what_multiplies_only_in_a_recurrence_is_not_called_dynamic(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["t", "w", "r"], ["", "h"], hidden_size=32),
        helper.make_node("Squeeze", ["h", "axis"], ["y"]),
    ]
    axis = numpy_helper.from_array(np.array([0]), "axis")
    held = [weight("w", 1, 96, 8), weight("r", 1, 96, 32), axis]
    model = build(nodes, held, takes=("n", 10, 8), gives=("n", 32))

    dynamic = run(model, normal(24, 10, 8), tmp_path, "dynamic")
    shrunk = run(model, normal(24, 10, 8), tmp_path, "weights")

    assert not dynamic.accepted
    assert dynamic.model is None
    assert shrunk.model is not None
    assert shrunk.evaluation.size_ratio is not None
    assert shrunk.evaluation.size_ratio < 0.5


def test_one_sample_is_enough_to_say_something(tmp_path: Path) -> None:
    result = run(product(), normal(1, 64), tmp_path, "weights")

    assert result.evaluation.reason


def test_weights_that_are_all_zero_and_scores_that_never_change_do_no_harm(
    tmp_path: Path,
) -> None:
    none = numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")

    result = run(product(none), normal(30, 64), tmp_path)

    assert result.evaluation.reason


def test_a_float_model_that_gives_nan_for_one_sample_is_refused_with_its_number(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Log", ["h"], ["y"]),
    ]
    ones = numpy_helper.from_array(np.ones((64, 4), np.float32), "w")
    samples = np.abs(normal(30, 64))
    samples[7] *= -1

    with pytest.raises(RejectedError) as refused:
        run(build(nodes, [ones], takes=("n", 64)), samples, tmp_path, "weights")

    assert refused.value.code is Code.MODEL_INVALID
    assert "7" in refused.value.detail


def test_models_that_differ_only_in_the_weights_beside_them_are_not_mixed_up(
    tmp_path: Path,
) -> None:
    samples, made = normal(30, 64), []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(
            product(weight("w", 64, 64)),
            folder / "m.onnx",
            save_as_external_data=True,
            location="held",
            size_threshold=0,
        )
    for name in ("one", "other"):
        (tmp_path / "m.onnx").write_bytes((tmp_path / name / "m.onnx").read_bytes())
        (tmp_path / "held").write_bytes((tmp_path / name / "held").read_bytes())
        found = run(
            tmp_path / "m.onnx", samples, tmp_path, "weights", cache=tmp_path / "cache"
        )
        made.append(found.model)

    assert None not in made
    assert made[0] != made[1]


def test_heights_that_must_be_multiples_of_32_are_taken_from_the_samples(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[32, 32]),
        helper.make_node("Resize", ["c", "", "scales"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    scales = numpy_helper.from_array(np.array([1, 1, 32, 32], np.float32), "scales")
    held = [weight("w", 3, 3, 32, 32), scales]
    model = build(nodes, held, takes=("n", 3, "h", "w"), gives=("n", 3, "h", "w"))

    result = run(model, normal(8, 3, 64, 96) * np.float32(0.01), tmp_path, "weights")

    assert result.model is not None
