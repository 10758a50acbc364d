"""Find the spread of what may be quantized, from streamed samples. Runs in a child.

The samples pass once. Tensors are exposed as outputs in groups of limited size, and a
group is folded into its histograms before the next batch: memory is flat in the number
of samples and in the size of the model's activations. What lies inside ``If``, ``Loop``
and ``Scan`` cannot be seen from outside; its operators are quantized without ranges.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, log2, prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from quarterdeck_controller.optimize.data.stored import Feed, Stored
from quarterdeck_controller.optimize.quantize.flow import JOINING, MOVERS
from quarterdeck_controller.optimize.quantize.graph import Index, keep_ancestors
from quarterdeck_controller.optimize.quantize.spread import (
    Array,
    Spread,
    save_spreads,
)
from quarterdeck_controller.optimize.quantize.treatment import ACCELERATED
from quarterdeck_controller.optimize.session import open_with
from quarterdeck_controller.optimize.steps import Calibrated, CalibrateRequest

BINS = 4096
"""On each side of zero; at least half of them are used on the wider side."""
SAMPLED = 1 << 14
"""Values of one tensor and batch that enter the histogram, evenly spaced; extremes are
taken over all."""
STRIDES = (1, 3, 7, 13, 29, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749)
"""Primes, so that taking every n-th value does not always hit the same channels."""
WEIGHTS = "weights.bin"
SMALL_BYTES = 1 << 10
ALIGNMENT = 4096
GROUP_BYTES = 64 << 20
UNKNOWN_BYTES = 4 << 20
"""Taken as the size of a tensor whose shape cannot be told before it is computed."""
CHANNEL_AXES: Mapping[str, int] = {
    "Conv": 1,
    "ConvTranspose": 1,
    "MatMul": -1,
    "Gemm": -1,
}
MAX_CHANNELS = 1 << 16
FOLLOWING = frozenset((*JOINING, *MOVERS, "Relu", "Clip"))


def calibrate(request: CalibrateRequest) -> Calibrated:
    """Write the spreads of ``request.model``'s tensors to ``request.out``."""
    stored = Stored.open(request.samples)
    with tempfile.TemporaryDirectory(dir=request.out.parent) as folder:
        spreads = observe(request.model, stored, request.batch, Path(folder))
    save_spreads(request.out, spreads)
    strange = [name for name, spread in spreads.items() if not spread.quantizable]
    notes = tuple(
        f"{name} reaches {spreads[name].low:.3g} to {spreads[name].high:.3g}, as masks "
        "do: what it touches stays in float"
        for name in strange
    )
    return Calibrated(tensors=len(spreads), notes=notes)


def observe(
    model: Path, stored: Stored, batch: int, scratch: Path
) -> dict[str, Spread]:
    """Return the spread of every tensor that may be quantized and was ever not empty.

    Args:
        model: A prepared graph.
        stored: The samples.
        batch: At most so many samples at once.
        scratch: An empty folder for what must be written on the way.
    """
    light = _without_weights(model, scratch)
    plan = _plan(light, next(stored.batches(1)), batch)
    seen = {name: _Seen(plan.channel_axes.get(name)) for name in plan.names}
    for names in plan.groups:
        session = _session(light, names, scratch / "group.onnx")
        for feed in stored.batches(plan.batch):
            fed = {value.name: feed[value.name] for value in session.get_inputs()}
            for name, array in zip(names, session.run(list(names), fed), strict=True):
                seen[name].add(array)
        del session
    return {name: one.spread() for name, one in seen.items() if one.count}


def _without_weights(path: Path, scratch: Path) -> onnx.ModelProto:
    """Return the graph with its weights in a file of ``scratch``.

    The runtime maps them from there, and each group's graph costs next to nothing.
    """
    model = onnx.load(path)
    with (scratch / WEIGHTS).open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.ByteSize() < SMALL_BYTES:
                continue
            data = onnx.numpy_helper.to_array(tensor).tobytes()
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            bare = TensorProto(name=tensor.name, data_type=tensor.data_type)
            bare.dims.extend(tensor.dims)
            bare.data_location = TensorProto.EXTERNAL
            entries = {"location": WEIGHTS, "offset": file.tell(), "length": len(data)}
            for key, value in entries.items():
                bare.external_data.add(key=key, value=str(value))
            file.write(data)
            tensor.CopyFrom(bare)
    light = onnx.ModelProto()
    light.ParseFromString(model.SerializeToString())
    return light


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which tensors are exposed together, and how many samples are run at once."""

    groups: tuple[tuple[str, ...], ...]
    batch: int
    channel_axes: Mapping[str, int]

    @property
    def names(self) -> Iterator[str]:
        return (name for group in self.groups for name in group)


def _plan(model: onnx.ModelProto, feed: Feed, batch: int) -> _Plan:
    wanted = _wanted(Index.of(model.graph))
    sizes = {k: size for k, size in _sizes(model, feed).items() if k in wanted}
    fits = GROUP_BYTES // max(sum(sizes.values()), 1)
    batch = max(1, min(batch, fits))
    groups = _grouped({name: size * batch for name, size in sizes.items()})
    axes = {
        node.input[0]: CHANNEL_AXES[node.op_type]
        for node in model.graph.node
        if node.op_type in CHANNEL_AXES and not node.domain
    }
    return _Plan(groups, batch, axes)


def _wanted(index: Index) -> set[str]:
    """Return what may be quantized: what products take and give, and what follows.

    Inputs and outputs of the model are among them, for whoever watches for drift.
    """
    found = {*index.inputs, *index.outputs}
    integers: set[str] = set()
    for node in index.graph.node:
        flowing = [name for name in node.input if name not in index.constants]
        follows = node.op_type in FOLLOWING and integers.issuperset(flowing)
        if node.op_type in ACCELERATED:
            found.update(flowing)
        if node.op_type in ACCELERATED or follows:
            integers.update(node.output)
    return found | integers


def _sizes(model: onnx.ModelProto, feed: Feed) -> dict[str, int]:
    """Return the bytes that each float tensor takes for ``feed``."""
    graph = _inferred(model, feed).graph
    shapes = {
        value.name: value.type.tensor_type
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.HasField("tensor_type")
    }
    constants = {tensor.name for tensor in graph.initializer}
    made = (name for node in graph.node for name in node.output)
    flowing = dict.fromkeys((*(value.name for value in graph.input), *made))
    return {
        name: _bytes(shapes[name])
        for name in flowing
        if name in shapes
        and name not in constants
        and shapes[name].elem_type == TensorProto.FLOAT
    }


def _inferred(model: onnx.ModelProto, feed: Feed) -> onnx.ModelProto:
    """Return the graph with the shapes that it has for ``feed``, without weights."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for value in light.graph.input:
        if value.name in feed:
            shape = feed[value.name].shape
            for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=False):
                dim.Clear()
                dim.dim_value = size
    for value in (*light.graph.value_info, *light.graph.output):
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(light, data_prop=True)


def _bytes(kind: onnx.TypeProto.Tensor) -> int:
    dims = [dim.dim_value for dim in kind.shape.dim]
    known = kind.HasField("shape") and all(
        dim.HasField("dim_value") for dim in kind.shape.dim
    )
    return 4 * prod(dims) if known else UNKNOWN_BYTES


def _grouped(sizes: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    groups: list[list[str]] = []
    used = GROUP_BYTES + 1
    for name, size in sizes.items():
        if used + size > GROUP_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return tuple(tuple(group) for group in groups)


def _session(
    light: onnx.ModelProto, names: Sequence[str], path: Path
) -> ort.InferenceSession:
    """Return a session of the part of the model that makes the tensors ``names``."""
    model = onnx.ModelProto()
    model.CopyFrom(light)
    keep_ancestors(model.graph, names)
    for name in names:
        value = onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        model.graph.output.append(value)
    path.write_bytes(model.SerializeToString())
    return open_with(path, _options())


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@dataclass(slots=True)
class _Seen:
    """What was seen of one tensor so far."""

    axis: int | None
    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    zeros: int = 0
    exponent: int | None = None
    counts: Array = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    channels: Array | None = None

    def add(self, array: Array) -> None:
        if not array.size:
            return
        self.count += array.size
        self.low = float(np.minimum(self.low, array.min()))
        self.high = float(np.maximum(self.high, array.max()))
        if not np.isfinite([self.low, self.high]).all():
            return
        self._add_values(array.reshape(-1)[:: _stride(array.size)])
        if self.axis is not None:
            self._add_channels(array, self.axis)

    def spread(self) -> Spread:
        finite = bool(np.isfinite([self.low, self.high]).all())
        width = 2.0 ** (self.exponent or 0) / BINS
        used = np.flatnonzero(self.counts) if finite else np.empty(0, np.int64)
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (BINS, BINS)
        return Spread(
            low=self.low,
            high=self.high,
            counts=self.counts[first:last].copy(),
            start=(first - BINS) * width,
            width=width,
            zeros=self.zeros,
            channel_max=self.channels if finite else None,
        )

    def _add_values(self, values: Array) -> None:
        largest = max(abs(self.low), abs(self.high))
        if largest:
            self._widen(ceil(log2(largest)))
        nonzero = values[values != 0]
        self.zeros += values.size - nonzero.size
        if nonzero.size and self.exponent is not None:
            scale = BINS * 2.0**-self.exponent
            at = np.floor(nonzero * np.float32(scale)).astype(np.int32) + BINS
            np.minimum(at, 2 * BINS - 1, out=at)
            self.counts += np.bincount(at, minlength=2 * BINS)

    def _widen(self, exponent: int) -> None:
        """Double the bins' width until values up to ``2 ** exponent`` fit."""
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            halved = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[BINS // 2 : BINS // 2 + BINS] = halved
            self.exponent += 1

    def _add_channels(self, array: Array, axis: int) -> None:
        if array.ndim == 1 or array.shape[axis] > MAX_CHANNELS:
            return
        others = tuple(n for n in range(array.ndim) if n != axis % array.ndim)
        found = np.maximum(array.max(axis=others), -array.min(axis=others))
        if self.channels is None:
            self.channels = found
        elif self.channels.shape == found.shape:
            self.channels = np.maximum(self.channels, found)
        else:  # the channels are not fixed, so nothing can be said by channel
            self.axis = self.channels = None


def _stride(size: int) -> int:
    wanted = size / SAMPLED
    return next((prime for prime in STRIDES if prime >= wanted), STRIDES[-1])
