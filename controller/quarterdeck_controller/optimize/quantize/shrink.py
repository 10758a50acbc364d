"""Make the file of a variant smaller without changing what it computes.

Identical constants are stored once, and names become short: in a small model the text
of the graph outweighs the weights. Inputs, outputs and the metadata of the model, where
labels live, stay. A name means the same in a graph and in the subgraphs inside it, so
one table of new names serves all of them. Runs in a child.
"""

from collections.abc import Collection, Iterator

import onnx

from quarterdeck_controller.optimize.quantize.graph import all_graphs, drop_unused

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def shrink(
    model: onnx.ModelProto, *, names: bool = False, precise: bool = False
) -> onnx.ModelProto:
    """Shrink ``model`` in place and return it.

    Args:
        model: A variant.
        names: Whether operators and tensors keep their names.
        precise: Whether it is opened with ``Session.precise``: then the runtime
            replaces the signed weights of each operator, and cannot open a model
            where two operators share theirs, or their zero points (onnxruntime 1.32).
    """
    model.doc_string = ""
    drop_unused(model.graph)
    if not names:
        _leave_out_zeros(model.graph)
    kept = (onnx.TensorProto.INT8,) if precise else ()
    _share_constants(model.graph, {}, {}, kept)
    drop_unused(model.graph)
    for graph in all_graphs(model.graph):
        _drop_text(graph)
    if not names:
        _shorten_names(model.graph)
    return model


def give_first(graph: onnx.GraphProto, output: str) -> None:
    """Put ``output`` before the other outputs, which keep their order."""
    ordered = sorted(graph.output, key=lambda value: value.name != output)
    del graph.output[:]
    graph.output.extend(ordered)


def _drop_text(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    del graph.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
    for tensor in graph.initializer:
        tensor.doc_string = ""
        if tensor.data_location == onnx.TensorProto.DEFAULT:
            tensor.ClearField("data_location")  # left over where it was read from


def _leave_out_zeros(graph: onnx.GraphProto) -> None:
    """Leave out the zero points of biases, which are four bytes each and all zero.

    The runtime fuses operators without them; it does not fuse a Gemm whose weights
    have none.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) == len(("x", "scale")):
            continue
        zeros = constants.get(node.input[2])
        if zeros is None or zeros.data_type != onnx.TensorProto.INT32:
            continue
        if not onnx.numpy_helper.to_array(zeros).any():
            del node.input[2]


Key = tuple[int, tuple[int, ...], bytes]


def _share_constants(
    graph: onnx.GraphProto,
    around: dict[Key, str],
    same_around: dict[str, str],
    kept: Collection[int],
) -> None:
    """Read every constant from the first of its kind, in this graph or around it.

    Those of the types ``kept`` stay each on its own.
    """
    fixed = {value.name for value in (*graph.input, *graph.output)}
    first, same = dict(around), dict(same_around)
    for tensor in graph.initializer:
        outside = tensor.data_location == onnx.TensorProto.EXTERNAL
        if tensor.name in fixed or outside or tensor.data_type in kept:
            continue
        data = onnx.numpy_helper.to_array(tensor).tobytes()
        key = (tensor.data_type, tuple(tensor.dims), data)
        if key in first:
            same[tensor.name] = first[key]
        else:
            first[key] = tensor.name
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = same.get(name, name)
        for found in node.attribute:
            for inner in (found.g, *found.graphs):
                if found.type in _GRAPHS:
                    _share_constants(inner, first, same, kept)


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _shorten_names(graph: onnx.GraphProto) -> None:
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    short = {name: name for name in kept}
    fresh = _short_names(kept)
    for inner in all_graphs(graph):
        inner.name = "g"
        for value in (*inner.input, *inner.initializer, *inner.output):
            value.name = _give(short, value.name, fresh)
        for node in inner.node:
            node.name = ""
            for values in (node.input, node.output):
                for at, name in enumerate(values):
                    values[at] = _give(short, name, fresh)


def _give(short: dict[str, str], name: str, fresh: Iterator[str]) -> str:
    if name not in short:
        short[name] = next(fresh)
    return short[name]


def _short_names(taken: set[str]) -> Iterator[str]:
    number = 0
    while True:
        name = _in_digits(number)
        if name not in taken:
            yield name
        number += 1


def _in_digits(number: int) -> str:
    text = ""
    while True:
        number, digit = divmod(number, len(DIGITS))
        text = DIGITS[digit] + text
        if not number:
            return "_" + text
