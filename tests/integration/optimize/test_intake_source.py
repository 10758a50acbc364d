"""Looking at a model file: what it is, what is refused, and what will be hard."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.intake.hard import hard_for
from quarterdeck_controller.optimize.intake.source import inspect, read
from quarterdeck_controller.optimize.profile import Profile, load_profile
from quarterdeck_controller.optimize.steps import InspectRequest, Source
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def build(
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto] = (),
    *,
    inputs: dict[str, tuple[int, Shape]] | None = None,
    outputs: dict[str, tuple[int, Shape | None]] | None = None,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    taken = inputs or {"x": (FLOAT, ("n", 8))}
    given = outputs or {"y": (FLOAT, ("n", None))}
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, *value) for n, value in taken.items()],
        [helper.make_tensor_value_info(n, *value) for n, value in given.items()],
        list(constants),
    )
    opsets = [helper.make_opsetid("", 17)]
    opsets += [helper.make_opsetid(domain, 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    return model


def product() -> onnx.ModelProto:
    return build([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", 8, 64)])


def relu(shape: Shape, gives: Shape | None = ("n", None)) -> onnx.ModelProto:
    return build(
        [helper.make_node("Relu", ["x"], ["y"])],
        inputs={"x": (FLOAT, shape)},
        outputs={"y": (FLOAT, gives)},
    )


def look(model: onnx.ModelProto, folder: Path, *, quantized: bool = False) -> Source:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return inspect(InspectRequest(model=path, quantized=quantized))


def refusal(model: onnx.ModelProto, folder: Path) -> str:
    with pytest.raises(RejectedError) as refused:
        look(model, folder)
    assert refused.value.code is Code.MODEL_INVALID
    return refused.value.detail


# external data ------------------------------------------------------------------------


def apart(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save_model(
        product(),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return path


def relocated(folder: Path, location: str) -> Path:
    path = apart(folder)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_another_file_count_in_size_and_digest(tmp_path: Path) -> None:
    path = apart(tmp_path)
    before = inspect(InspectRequest(model=path))
    data = tmp_path / "weights.bin"
    data.write_bytes(bytes(reversed(data.read_bytes())))

    after = inspect(InspectRequest(model=path))

    assert before.external == ("weights.bin",)
    assert before.bytes == path.stat().st_size + data.stat().st_size
    assert before.parameters == 8 * 64
    assert before.sha256 != after.sha256


def test_a_model_of_one_file_has_that_file_s_digest(tmp_path: Path) -> None:
    found = look(product(), tmp_path)

    data = (tmp_path / "model.onnx").read_bytes()
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.bytes == len(data)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    path = apart(tmp_path)
    (tmp_path / "weights.bin").unlink()

    with pytest.raises(RejectedError, match=r"weights\.bin, which is missing"):
        inspect(InspectRequest(model=path))


def test_a_data_file_that_is_cut_short_is_refused_with_both_sizes(
    tmp_path: Path,
) -> None:
    path = apart(tmp_path)
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])

    with pytest.raises(RejectedError, match=r"need 2048 bytes.*has 2047: .*cut short"):
        inspect(InspectRequest(model=path))


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/passwd", "C:\\weights.bin", "a/../../w", ""]
)
def test_a_data_file_outside_the_model_s_folder_is_never_opened(
    location: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = relocated(folder, location)
    (tmp_path / "weights.bin").write_bytes(bytes(2048))

    with pytest.raises(RejectedError, match="not in the model's own folder"):
        inspect(InspectRequest(model=path))


def test_a_link_out_of_the_model_s_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = apart(folder)
    data = folder / "weights.bin"
    data.rename(tmp_path / "elsewhere.bin")
    data.symlink_to(tmp_path / "elsewhere.bin")

    with pytest.raises(RejectedError, match="not in the model's own folder"):
        inspect(InspectRequest(model=path))


def test_a_length_that_is_not_the_tensor_s_is_refused(tmp_path: Path) -> None:
    path = apart(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "length":
            entry.value = "99"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(RejectedError, match="takes 2048 bytes, but names 99"):
        inspect(InspectRequest(model=path))


def test_a_file_of_more_than_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # sparse: takes no room

    with pytest.raises(RejectedError, match="a model file ends at 2 GiB; keep the w"):
        read(path)


# quantized, foreign -------------------------------------------------------------------


def quantized() -> onnx.ModelProto:
    one = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    zero = numpy_helper.from_array(np.array(0, np.uint8), "z")
    return build(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["a"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        [one, zero],
    )


def weights_as_integers() -> onnx.ModelProto:
    integers = numpy_helper.from_array(np.ones((8, 256), np.int8), "q")
    return build(
        [
            helper.make_node("Cast", ["q"], ["f"], to=FLOAT),
            helper.make_node("MatMul", ["x", "f"], ["y"]),
        ],
        [integers],
    )


def test_a_quantized_model_is_told_with_exact_counts(tmp_path: Path) -> None:
    told = refusal(quantized(), tmp_path)

    assert "already quantized (2 DequantizeLinear, 1 QuantizeLinear)" in told


def test_integer_weights_behind_a_cast_are_quantized_too(tmp_path: Path) -> None:
    told = refusal(weights_as_integers(), tmp_path)

    assert "already quantized (1 Cast of integer weights)" in told


@pytest.mark.parametrize("make", [quantized, weights_as_integers])
def test_a_quantized_model_can_be_looked_at_when_asked(
    make: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    assert look(make(), tmp_path, quantized=True).inputs


def test_custom_operators_are_refused_by_name_inside_branches_too(
    tmp_path: Path,
) -> None:
    inner = helper.make_graph(
        [helper.make_node("Magic", ["x"], ["o"], domain="acme")],
        "b",
        [],
        [helper.make_tensor_value_info("o", FLOAT, ["n", 8])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
    ]

    told = refusal(build(nodes, domains=["acme"]), tmp_path)

    assert "custom domains that onnxruntime does not have: acme.Magic" in told


def test_functions_of_the_model_itself_are_no_custom_operators(tmp_path: Path) -> None:
    model = build(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")], domains=["own"]
    )
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(
        helper.make_function("own", "Twice", ["a"], ["b"], body, model.opset_import[:1])
    )

    assert look(model, tmp_path).operators == {"Twice": 1, "Add": 1}


def test_what_the_runtime_saved_for_one_machine_is_refused(tmp_path: Path) -> None:
    domain = "com.microsoft.nchwc"
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=domain)

    told = refusal(build([node], domains=[domain]), tmp_path)

    assert "saved it after optimizing it for one kind of machine (ReorderInput)" in told


# damaged ------------------------------------------------------------------------------


def test_a_tensor_of_too_few_bytes_is_refused_with_both_sizes(tmp_path: Path) -> None:
    model = product()
    model.graph.initializer[0].raw_data = bytes(100)

    told = refusal(model, tmp_path)

    assert "damaged: tensor w holds 100 bytes, its shape [8, 64] takes 2048" in told


def test_a_damaged_file_is_looked_at_or_refused_never_a_crash(tmp_path: Path) -> None:
    data = product().SerializeToString()
    path = tmp_path / "model.onnx"
    refusals = 0

    for _ in range(400):
        damaged = bytearray(data)
        for at in RNG.integers(0, 120, 2):
            damaged[at] = RNG.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            inspect(InspectRequest(model=path))
        except RejectedError:
            refusals += 1

    assert refusals > 100


# inputs and outputs -------------------------------------------------------------------


def test_inputs_that_are_no_tensors_are_refused_by_name(tmp_path: Path) -> None:
    model = product()
    model.graph.input.append(
        helper.make_tensor_sequence_value_info("history", FLOAT, ["n", 8])
    )

    told = refusal(model, tmp_path)

    assert told.startswith("input history is a sequence, not a tensor")


def test_inputs_of_strings_are_refused_by_name(tmp_path: Path) -> None:
    model = product()
    words = helper.make_tensor_value_info("words", TensorProto.STRING, ["n"])
    model.graph.input.append(words)

    assert refusal(model, tmp_path).startswith("input words is a tensor of strings")


def test_an_input_of_unknown_rank_is_refused(tmp_path: Path) -> None:
    model = product()
    model.graph.input[0].type.tensor_type.ClearField("shape")

    assert "does not say how many dimensions it has" in refusal(model, tmp_path)


def test_outputs_that_are_no_tensors_are_left_out_with_a_note(tmp_path: Path) -> None:
    model = product()
    model.graph.output.insert(
        0, helper.make_tensor_value_info("name", TensorProto.STRING, ["n"])
    )

    found = look(model, tmp_path)

    assert [tensor.name for tensor in found.outputs] == ["y"]
    assert "output name is no tensor of numbers: variants do not give it" in found.notes


def test_a_rate_and_a_state_are_inputs_like_any_other(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("Relu", ["state"], ["next"]),
            helper.make_node("Identity", ["sr"], ["rate"]),
        ],
        inputs={
            "x": (FLOAT, ("n", "t")),
            "state": (FLOAT, (2, "n", 128)),
            "sr": (TensorProto.INT64, ()),
        },
        outputs={"y": (FLOAT, ("n", "t")), "next": (FLOAT, (2, "n", 128))},
    )

    found = look(model, tmp_path)

    assert found.inputs[2].shape == ()
    assert found.inputs[1].shape == (2, None, 128)
    assert any(note.startswith("state, sr: no dimension for") for note in found.notes)


def test_a_fixed_batch_of_many_is_refused(tmp_path: Path) -> None:
    assert "fixed batch of 4" in refusal(relu((4, 8), (4, 8)), tmp_path)


def test_an_image_without_a_batch_is_no_batch_of_three(tmp_path: Path) -> None:
    found = look(relu((3, "h", "w"), ("boxes", 4)), tmp_path)

    assert found.inputs[0].shape == (3, None, None)


@pytest.mark.parametrize("unknown", [-1, 0])
def test_a_dimension_that_is_no_size_is_a_free_one(
    unknown: int, tmp_path: Path
) -> None:
    assert look(relu((unknown, 8)), tmp_path).inputs[0].shape == (None, 8)


# what will be hard --------------------------------------------------------------------


def hard_source(tmp_path: Path) -> Source:
    mask = np.full((1, 8), -3.4e38, np.float32)
    return look(
        build(
            [
                helper.make_node("Conv", ["x", "w"], ["c"], group=4),
                helper.make_node("Conv", ["c", "v"], ["d"]),
                helper.make_node("Add", ["d", "mask"], ["y"]),
            ],
            [
                weight("w", 4, 1, 1, 1),
                weight("v", 8, 4, 1, 1),
                numpy_helper.from_array(mask.reshape(1, 8, 1, 1), "mask"),
            ],
            inputs={"x": (FLOAT, ("n", 4, "h", "w"))},
            outputs={"y": (FLOAT, ("n", 8, "h", "w"))},
        ),
        tmp_path,
    )


def test_masks_depthwise_convolutions_and_free_shapes_are_noted(tmp_path: Path) -> None:
    notes = hard_source(tmp_path).notes

    assert any(note.startswith("1 constant with magnitudes of masks") for note in notes)
    assert any(note.startswith("1 depthwise convolution:") for note in notes)
    assert any(note.startswith("x: free dimensions") for note in notes)


def changed(profile: Profile, **support: object) -> Profile:
    made = profile.support.model_copy(update=support)
    return profile.model_copy(update={"support": made})


def test_what_is_hard_on_a_class_follows_from_its_profile(tmp_path: Path) -> None:
    source = hard_source(tmp_path)
    profile = load_profile("board-arm64")
    coarse = changed(profile, per_channel=False, operators=("MatMul",))
    large = source.model_copy(update={"bytes": 400 << 20})

    assert hard_for(source, profile) == ()
    assert hard_for(source, coarse)[0] == "Conv does not run on integers there"
    assert "training may be needed" in hard_for(source, coarse)[1]
    assert hard_for(large, profile)[0].startswith(
        "float weights and the runtime take 445 MiB, the class allows "
    )


def test_what_is_hard_is_told_without_loading_onnx() -> None:
    code = (
        "import sys, quarterdeck_controller.optimize.intake.hard;"
        "import quarterdeck_controller.optimize.intake.shapes;"
        "sys.exit('onnx' in sys.modules or 'onnxruntime' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
