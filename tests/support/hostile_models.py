"""Models that were made to harm whoever reads or runs them, as bytes."""

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 64
FLOAT = TensorProto.FLOAT

Made = Callable[[Path], bytes]


def _model(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
    *,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
) -> bytes:
    """Return a model of one row to one row, as its golden vectors expect."""
    graph = helper.make_graph(
        list(nodes),
        "hostile",
        [helper.make_tensor_value_info("x", FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", WIDTH])],
        list(constants),
    )
    graph.sparse_initializer.extend(sparse)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], functions=functions
    )
    model.ir_version = 10
    return bytes(model.SerializeToString())


def _external(location: str, *, count: int = WIDTH, offset: int = 0) -> TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[count])
    tensor.data_location = TensorProto.EXTERNAL
    told = {"location": location, "offset": str(offset), "length": str(4 * count)}
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _reading(location: str, **where: int) -> bytes:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return _model([node], [_external(location, **where)])


def absolute(folder: Path) -> bytes:
    return _reading(str(folder / "secret.bin"))


def dotdot(_: Path) -> bytes:
    return _reading("../secret.bin")


def through_a_folder(_: Path) -> bytes:
    return _reading("junk/../../secret.bin")


def environ(_: Path) -> bytes:
    return _reading("/proc/self/environ")


def endless_device(_: Path) -> bytes:
    return _reading("/dev/zero", count=1 << 38)


def negative_offset(_: Path) -> bytes:
    return _reading("ok.bin", offset=-5)


def symlink(folder: Path) -> bytes:
    (folder / "link.bin").symlink_to("/etc/passwd")
    return _reading("link.bin")


def _sparse(values: TensorProto) -> onnx.SparseTensorProto:
    rows = numpy_helper.from_array(np.arange(WIDTH, dtype=np.int64), "rows")
    return onnx.SparseTensorProto(values=values, indices=rows, dims=[WIDTH])


def sparse_constant(folder: Path) -> bytes:
    hidden = _sparse(_external(str(folder / "secret.bin")))
    constant = helper.make_node("Constant", [], ["w"], sparse_value=hidden)
    return _model([constant, helper.make_node("Add", ["x", "w"], ["y"])])


def sparse_initializer(_: Path) -> bytes:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return _model([node], sparse=[_sparse(_external("../secret.bin"))])


def _branch(nodes: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("y", FLOAT, ["n", WIDTH])
    return helper.make_graph(list(nodes), "branch", [], [out])


def _nested(depth: int) -> onnx.NodeProto:
    inner = _branch([helper.make_node("Identity", ["x"], ["y"])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    for _ in range(depth - 1):
        node = helper.make_node(
            "If", ["c"], ["y"], then_branch=_branch([node]), else_branch=inner
        )
    return node


def nested_if(_: Path) -> bytes:
    true = numpy_helper.from_array(np.array([True])[0], "c")
    return _model([_nested(20)], [true])


def one_if(_: Path) -> bytes:
    true = numpy_helper.from_array(np.array([True])[0], "c")
    return _model([_nested(1)], [true])


def endless_loop(_: Path) -> bytes:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["v"], ["w"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, ["n", WIDTH]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", FLOAT, ["n", WIDTH]),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(2**63 - 1, np.int64), "m"),
        numpy_helper.from_array(np.array([True])[0], "go0"),
    ]
    node = helper.make_node("Loop", ["m", "go0", "x"], ["y"], body=body)
    return _model([node], constants)


def _swollen(count: int, kind: str) -> bytes:
    shape = numpy_helper.from_array(np.array([count], np.int64), "s")
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    source = ["s"] if kind == "ConstantOfShape" else ["one", "s"]
    return _model(
        [
            helper.make_node(kind, source, ["b"]),
            helper.make_node("ReduceMax", ["b"], ["m"], keepdims=0),
            helper.make_node("Add", ["x", "m"], ["y"]),
        ],
        [shape, one],
    )


def constant_bomb(_: Path) -> bytes:
    return _swollen(1 << 34, "ConstantOfShape")


def expand_bomb(_: Path) -> bytes:
    return _swollen(1 << 30, "Expand")


def doubling(_: Path) -> bytes:
    names = ["x", *(f"t{n}" for n in range(1, 41))]
    nodes = [
        helper.make_node("Concat", [before, before], [after], axis=0)
        for before, after in pairwise(names)
    ]
    return _model([*nodes, helper.make_node("ReduceMax", ["t40"], ["y"], axes=[0])])


def long_chain(_: Path) -> bytes:
    names = ["x", *(f"t{n}" for n in range(1, 100_000)), "y"]
    return _model(
        [
            helper.make_node("Add", [before, "x"], [after])
            for before, after in pairwise(names)
        ]
    )


def huge_constant(_: Path) -> bytes:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[1 << 40])
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


def lying_constant(_: Path) -> bytes:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[1 << 20], raw_data=b"1234")
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


def custom_domain(_: Path) -> bytes:
    return _model([helper.make_node("Evil", ["x"], ["y"], domain="com.evil")])


def accelerator_context(_: Path) -> bytes:
    return _model(
        [
            helper.make_node(
                "EPContext",
                ["x"],
                ["y"],
                domain="com.microsoft",
                embed_mode=0,
                ep_cache_context="../secret.bin",
                main_context=1,
                source="X",
            )
        ]
    )


def unknown_operator(_: Path) -> bytes:
    return _model([helper.make_node("Frobnicate", ["x"], ["y"])])


def unknown_opset(_: Path) -> bytes:
    return _model([helper.make_node("Identity", ["x"], ["y"])], opset=9999)


def _function(name: str, callee: str, times: int) -> onnx.FunctionProto:
    names = ["a", *(f"t{n}" for n in range(1, times)), "b"]
    domain = "" if callee == "Identity" else "f"
    nodes = [
        helper.make_node(callee, [before], [after], domain=domain)
        for before, after in pairwise(names)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], nodes, opsets)


def exploding_functions(_: Path) -> bytes:
    functions = [_function("f0", "Identity", 10)]
    functions += [_function(f"f{n}", f"f{n - 1}", 10) for n in range(1, 12)]
    return _model(
        [helper.make_node("f11", ["x"], ["y"], domain="f")], functions=functions
    )


def circular_functions(_: Path) -> bytes:
    functions = [_function("p", "q", 1), _function("q", "p", 1)]
    return _model(
        [helper.make_node("p", ["x"], ["y"], domain="f")], functions=functions
    )


def not_a_number(_: Path) -> bytes:
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    nodes = [
        helper.make_node("Div", ["zero", "zero"], ["q"]),
        helper.make_node("Add", ["x", "q"], ["y"]),
    ]
    return _model(nodes, [zero])


def wrong_answers(_: Path) -> bytes:
    two = numpy_helper.from_array(np.full(1, 2, np.float32), "two")
    return _model([helper.make_node("Mul", ["x", "two"], ["y"])], [two])


def fewer_scores(_: Path) -> bytes:
    return _model([helper.make_node("ReduceMax", ["x"], ["y"], axes=[1])])


def truncated(folder: Path) -> bytes:
    whole = endless_loop(folder)
    return whole[: len(whole) // 2]


def noise(_: Path) -> bytes:
    return os.urandom(10_000)


def no_text(_: Path) -> bytes:
    return identity().replace(b"Identity", b"Iden\xff\xfety")


def nothing(_: Path) -> bytes:
    return b""


def deep_protobuf(_: Path) -> bytes:
    # A graph within a node's attribute within a graph, written by hand: the library
    # itself refuses to make one so deep.
    inner = b""
    for _number in range(2000):
        attribute = _field(6, inner) + _field(1, b"g")
        inner = _field(1, _field(5, attribute) + _field(4, b"If"))
    return b"\x08\x0a" + _field(7, inner) + _field(8, b"\x10\x11")


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def identity() -> bytes:
    """Return a model that is not hostile at all."""
    return _model([helper.make_node("Identity", ["x"], ["y"])])
