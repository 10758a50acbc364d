"""Find which kernels really run after the runtime's own optimization. Runs in a child.

What a file says is not what runs: the runtime fuses quantize and dequantize operators
with what lies between them, or leaves them, folds weights, and changes layouts. So it
is asked: it writes the graph that it made, which is counted, subgraphs too, and it
profiles some inferences, whose time is shared out by type of kernel. Kernels that only
change a layout, such as the reorder to NCHWc, count as float.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.session import infer, open_with, options_of
from quarterdeck_controller.optimize.steps import Audit, AuditRequest, Kernel
from quarterdeck_shared.clock import SystemClock

INTEGER = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QMoE",
    }
)
"""Kernels that compute on integers, besides every ``QLinear`` one."""

HEAVY = frozenset(
    {
        "Attention",
        "Conv",
        "ConvTranspose",
        "Einsum",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GRU",
        "Gemm",
        "GroupQueryAttention",
        "LSTM",
        "MatMul",
        "MultiHeadAttention",
        "NhwcConv",
        "NhwcFusedConv",
        "RNN",
    }
)
"""Convolutions, matrix products and recurrent layers, which run in float."""

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})

BLOCKS = "MatMulNBits"
INT8_ACCURACY = 4
"""The ``accuracy_level`` from which ``MatMulNBits`` multiplies in int8."""

FLOATS = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
    }
)

WARM_UP = 2
FEWEST_RUNS = 3
MOST_RUNS = 20
PROFILE_S = 1.0
OUTSIDE = "session.optimized_model_external_initializers_file_name"
"""Weights are written beside the graph: it may be past what one file can hold, and only
the graph is read again."""
NESTING = frozenset({"If", "Loop", "Scan"})


@dataclass(frozen=True, slots=True)
class Event:
    """One kernel that ran: microseconds on the profile's own clock."""

    operator: str
    start: float
    length: float

    @property
    def end(self) -> float:
        """When it ended."""
        return self.start + self.length


def audit(request: AuditRequest) -> Audit:
    """Return the kernels of ``request.model``, with their shares of the time.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open or run it.
    """
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        model, runs = _observe(request, Path(folder))
        nodes = list(_walk(model.graph))
        return summarize(nodes, _types(model.graph), shares(runs))


def summarize(
    nodes: Sequence[NodeProto], types: Mapping[str, int], shares: Mapping[str, float]
) -> Audit:
    """Return what the optimized graph's ``nodes`` amount to. Pure.

    Args:
        nodes: Of the graph and its subgraphs.
        types: Element types of tensors, as far as they are known.
        shares: Of the time, by operator.
    """
    counts = Counter(node.op_type for node in nodes)
    integer = Counter(node.op_type for node in nodes if _is_integer(node))
    kernels = tuple(
        Kernel(
            operator=operator,
            count=number,
            share=shares.get(operator, 0.0),
            integer=integer[operator] > 0,
        )
        for operator, number in sorted(counts.items())
    )
    return Audit(
        integer=integer.total(),
        heavy_float=sum(_is_heavy_float(node, types) for node in nodes),
        conversions=sum(counts[operator] for operator in CONVERSIONS),
        conversion_share=sum(shares.get(operator, 0.0) for operator in CONVERSIONS),
        kernels=tuple(sorted(kernels, key=lambda k: (-k.share, k.operator))),
        fingerprint=" ".join(f"{name}:{n}" for name, n in sorted(counts.items())),
    )


def shares(runs: Sequence[Sequence[Event]]) -> dict[str, float]:
    """Return each operator's share of the time: of its median over the runs. Pure.

    An operator with a subgraph is given only the time that its own nodes leave.
    """
    owns = [_own_times(run) for run in runs]
    operators = sorted({operator for own in owns for operator in own})
    times = {name: median(own.get(name, 0.0) for own in owns) for name in operators}
    total = sum(times.values())
    return {name: spent / total for name, spent in times.items()} if total else {}


def _own_times(run: Iterable[Event]) -> dict[str, float]:
    own: dict[str, float] = {}
    around: list[Event] = []  # operators with subgraphs that are running
    for event in sorted(run, key=lambda e: (e.start, -e.length)):
        while around and event.start + event.length > around[-1].end:
            around.pop()
        if around:
            own[around[-1].operator] -= event.length
        own[event.operator] = own.get(event.operator, 0.0) + event.length
        if event.operator in NESTING:
            around.append(event)
    return {operator: max(0.0, spent) for operator, spent in own.items()}


def _observe(
    request: AuditRequest, folder: Path
) -> tuple[onnx.ModelProto, list[list[Event]]]:
    """Return the graph that the runtime made, and what ran in some inferences."""
    options, clock = options_of(request.session), SystemClock()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.add_session_config_entry(OUTSIDE, "weights")
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = open_with(request.model, options)
    feed = Stored.open(request.samples).sample(0)
    start = clock.monotonic()
    for number in range(WARM_UP + MOST_RUNS):
        infer(session, None, feed)
        if number + 1 >= FEWEST_RUNS and clock.monotonic() - start > PROFILE_S:
            break
    profile = Path(session.end_profiling())
    graph = onnx.load(folder / "optimized.onnx", load_external_data=False)
    with profile.open(encoding="utf-8") as lines:
        runs = _runs(lines)
    return graph, runs[WARM_UP:] or runs[-1:]


def _runs(lines: Iterable[str]) -> list[list[Event]]:
    """Return the kernels of each inference; the profile has one event a line."""
    runs: list[list[Event]] = []
    running: list[Event] = []
    for line in lines:
        event = json.loads(line.strip().strip(",")) if line.startswith("{") else {}
        if event.get("name") == "model_run":
            runs.append(running)
            running = []
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            running.append(_event(event))
    return runs


def _event(event: Mapping[str, Any]) -> Event:
    return Event(event["args"]["op_name"], float(event["ts"]), float(event["dur"]))


def _walk(graph: GraphProto) -> Iterator[NodeProto]:
    for inner in _graphs(graph):
        yield from inner.node


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for each in attribute.graphs:
                yield from _graphs(each)


def _types(graph: GraphProto) -> dict[str, int]:
    """Return the element types that the graph tells."""
    types: dict[str, int] = {}
    for inner in _graphs(graph):
        for value in (*inner.input, *inner.value_info, *inner.output):
            types[value.name] = value.type.tensor_type.elem_type
        types |= {weights.name: weights.data_type for weights in inner.initializer}
    return types


def _is_integer(node: NodeProto) -> bool:
    if node.op_type == BLOCKS:
        return any(
            attribute.name == "accuracy_level" and attribute.i == INT8_ACCURACY
            for attribute in node.attribute
        )
    return node.op_type in INTEGER or node.op_type.startswith("QLinear")


def _is_heavy_float(node: NodeProto, types: Mapping[str, int]) -> bool:
    if node.op_type == BLOCKS:
        return not _is_integer(node)
    if node.op_type not in HEAVY:
        return False
    return all(types.get(name, TensorProto.FLOAT) in FLOATS for name in node.input[:2])
