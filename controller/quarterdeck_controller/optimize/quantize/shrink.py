"""Make the file of a variant smaller without changing what it computes.

Identical constants are stored once, and names become short: in a small model the text
of the graph outweighs the weights. Runs in a child.
"""

from collections.abc import Iterator

import onnx

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def shrink(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model``, changed in place; inputs and outputs keep their names."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del graph.value_info[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    if any(_has_subgraph(node) for node in graph.node):
        return model  # a subgraph reads names of the graph around it
    _share_constants(graph)
    _shorten_names(graph)
    return model


def _has_subgraph(node: onnx.NodeProto) -> bool:
    return any(a.HasField("g") or len(a.graphs) > 0 for a in node.attribute)


def _public(graph: onnx.GraphProto) -> set[str]:
    return {value.name for value in (*graph.input, *graph.output)}


def _share_constants(graph: onnx.GraphProto) -> None:
    keep = _public(graph)
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    same: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        data = onnx.numpy_helper.to_array(tensor).tobytes()
        key = (tensor.data_type, tuple(tensor.dims), data)
        if tensor.name not in keep and key in first:
            same[tensor.name] = first[key]
        else:
            first.setdefault(key, tensor.name)
            kept.append(tensor)
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = same.get(name, name)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _shorten_names(graph: onnx.GraphProto) -> None:
    keep = _public(graph) | {""}
    names = _short_names(keep)
    short = {name: name for name in keep}
    for tensor in graph.initializer:
        tensor.name = _give(short, tensor.name, names)
    for node in graph.node:
        node.name = ""
        for values in (node.input, node.output):
            for at, name in enumerate(values):
                values[at] = _give(short, name, names)


def _give(short: dict[str, str], name: str, names: Iterator[str]) -> str:
    if name not in short:
        short[name] = next(names)
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
