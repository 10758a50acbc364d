"""SmoothQuant: move the outliers of activations into the weights that read them.

A few channels of a transformer's activations are a hundred times wider than the rest,
and one scale for the tensor leaves nothing of the others. Xiao et al. 2022 (arXiv
2211.10438) divide channel ``j`` by ``max|X_j|**a / max|W_j|**(1 - a)`` where it is made
and multiply the weights. The exponent is searched for each tensor by the error of its
products in simulated int8. Where the tensor's makers also feed something else, such as
a residual sum before a norm, the division is an operator of its own before the
products, and has to be worth it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.repair.channels import Channels, Lane
from quarterdeck_controller.optimize.repair.graph import (
    Array,
    View,
    free_name,
    integer,
    operand,
    replace_constant,
)
from quarterdeck_controller.optimize.repair.observe import tensors
from quarterdeck_controller.optimize.repair.rules import find_channels
from quarterdeck_controller.optimize.repair.scaling import scale_channels

EXPONENTS = (0.4, 0.5, 0.6, 0.7, 0.8)
ABSORBED_DB = 1.0
"""Gain of a tensor's products that is worth changing constants."""
INSERTED_DB = 3.0
"""Gain that is worth one more operator."""
ROWS = 256
"""Vectors of one tensor that the exponent is chosen on."""
GROUP_BYTES = 1 << 26
"""Tensors are looked at in groups of so many bytes."""
LARGEST = 2.0**10
LEVELS = 255
TINY = 1e-12
MATRIX = 2


@dataclass(frozen=True, slots=True)
class _Site:
    """A tensor and every product by constant weights that reads it.

    Attributes:
        readers: The products.
        weights: Of each, inputs first.
        width: Channels of the tensor.
    """

    tensor: str
    readers: tuple[onnx.NodeProto, ...]
    weights: tuple[Array, ...]
    width: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of a tensor: some vectors, and the peak of each channel."""

    rows: Array
    peaks: Array


@dataclass(frozen=True, slots=True)
class _Layout:
    """The graph's channels; sites that are mended leave those of others as they are."""

    channels: Channels
    roots: Array
    free: Array

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> "_Layout":
        channels = find_channels(graph)
        return cls(channels, channels.roots(), channels.free())

    def absorbs(self, lane: Lane, site: _Site) -> bool:
        """Whether nothing but the site's products reads the tensor's channels."""
        own, names = self.roots[lane.ids], {node.name for node in site.readers}
        if not self.free[lane.ids].all() or len(np.unique(own)) < len(own):
            return False
        mine = np.zeros(len(self.roots), bool)
        mine[own] = True
        makers = False
        for factor in self.channels.factors:
            if mine[self.roots[factor.ids]].any():
                if factor.role == "reads" and factor.node.name not in names:
                    return False
                makers = makers or factor.role == "makes"
        bounds = self.channels.bounds
        return makers and not any(mine[self.roots[one.ids]].any() for one in bounds)

    def by_variable(self, lane: Lane, scales: Array) -> Array:
        """Return the scales of a tensor's channels as scales of all variables."""
        found = np.ones(len(self.roots))
        found[self.roots[lane.ids]] = scales
        return found[self.roots]


def smooth(
    model: onnx.ModelProto, stored: Stored, *, batch: int, rows: Sequence[int]
) -> tuple[str, ...]:
    """Change ``model`` in place and return the operators that changed.

    Args:
        model: A float graph whose operators have names.
        stored: Samples that tell the peaks of channels.
        batch: How many may be run at once.
        rows: Which samples.
    """
    sites, changed = _sites(model.graph), list[str]()
    layout = _Layout.of(model.graph) if sites else _Layout.of(onnx.GraphProto())
    for group in _groups(sites):
        seen = _look(model, group, stored, batch=batch, rows=rows)
        for site in group:
            if site.tensor in seen:
                changed += _mend(model.graph, layout, site, seen[site.tensor])
    return tuple(dict.fromkeys(changed))


def choose_scales(
    rows: Array, peaks: Array, weights: Sequence[Array]
) -> tuple[Array, float]:
    """Return the scale of each channel and what it gains in decibels. Pure.

    Args:
        rows: Vectors of the tensor, ``(n, width)``.
        peaks: The largest magnitude of each channel, over more than ``rows``.
        weights: What multiplies it, each ``(width, m)``.
    """
    tops = np.max([np.abs(one).max(axis=1, initial=0) for one in weights], axis=0)
    plain = _error(rows, peaks, weights, np.ones(len(peaks)))
    best, least = np.ones(len(peaks)), plain
    for exponent in EXPONENTS:
        scales = _scales(peaks, tops, exponent)
        error = _error(rows, peaks, weights, scales)
        if error < least:
            best, least = scales, error
    return best, 10 * float(np.log10(max(plain, TINY) / max(least, TINY)))


def _scales(peaks: Array, tops: Array, exponent: float) -> Array:
    lives = (peaks > TINY) & (tops > TINY)
    if not lives.any():
        return np.ones(len(peaks))
    logs = np.zeros(len(peaks))
    logs[lives] = exponent * np.log(peaks[lives]) - (1 - exponent) * np.log(tops[lives])
    logs[lives] -= logs[lives].mean()
    limit = np.log(LARGEST)
    return np.exp(np.clip(logs, -limit, limit))


def _error(rows: Array, peaks: Array, weights: Sequence[Array], scales: Array) -> float:
    """Return the noise of the products in int8, as a share of the signal's power."""
    scaled = rows / scales
    low = np.minimum(scaled.min(axis=0, initial=0), 0).min()
    high = np.maximum(scaled.max(axis=0, initial=0), 0).max()
    reach = max(float((peaks / scales).max()), TINY)
    low, high = (-reach if -low > high else low), (high if -low > high else reach)
    step = max(float(high - low) / LEVELS, TINY)
    coarse = np.round(scaled / step) * step
    shares = []
    for one in weights:
        heavy = one * scales[:, None]
        unit = np.maximum(np.abs(heavy).max(axis=0, initial=0) / 127, TINY)
        noise = coarse @ (np.round(heavy / unit) * unit) - rows @ one
        shares.append(float((noise**2).mean() / max((rows @ one).var(), TINY)))
    return float(np.mean(shares))


def _sites(graph: onnx.GraphProto) -> list[_Site]:
    view = View.of(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if _weights(view, node) is not None:
            readers.setdefault(node.input[0], []).append(node)
    found = []
    for tensor, nodes in readers.items():
        weights = [w for node in nodes if (w := _weights(view, node)) is not None]
        width = weights[0].shape[0]
        given = any(value.name == tensor for value in graph.input)
        if width > 1 and not given:
            found.append(_Site(tensor, tuple(nodes), tuple(weights), width))
    return found


def _weights(view: View, node: onnx.NodeProto) -> Array | None:
    """Return the constant weights of a product with the inputs first, or None."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    found = view.weights(operand(node, 1))
    if found is None or found.ndim != MATRIX or integer(node, "transA", 0):
        return None
    return found.T if integer(node, "transB", 0) else found


def _groups(sites: Sequence[_Site]) -> Iterator[list[_Site]]:
    group: list[_Site] = []
    for site in sites:
        held = sum(one.width for one in group) + site.width
        if group and held * ROWS * 4 > GROUP_BYTES:
            yield group
            group = []
        group.append(site)
    if group:
        yield group


def _look(
    model: onnx.ModelProto,
    sites: Sequence[_Site],
    stored: Stored,
    *,
    batch: int,
    rows: Sequence[int],
) -> dict[str, _Seen]:
    """Return what the samples show of each site's tensor, none where it is no float."""
    found: dict[str, _Seen] = {}
    each = -(-ROWS // max(1, -(-len(rows) // batch)))
    names = [site.tensor for site in sites]
    for arrays in tensors(model, names, stored, batch=batch, rows=rows):
        for name, array in arrays.items():
            flat = array.reshape(-1, array.shape[-1])
            if not flat.size or not np.isfinite(flat).all():
                continue
            some = flat[:: max(1, len(flat) // each)][:each]
            peaks = np.abs(flat).max(axis=0)
            held = found.get(name, _Seen(some[:0], np.zeros_like(peaks)))
            joined = np.concatenate([held.rows, some])[:ROWS]
            found[name] = _Seen(joined, np.maximum(held.peaks, peaks))
    return found


def _mend(
    graph: onnx.GraphProto, layout: _Layout, site: _Site, seen: _Seen
) -> Sequence[str]:
    rows = seen.rows.astype(np.float64)
    scales, gain = choose_scales(rows, seen.peaks.astype(np.float64), site.weights)
    lane = layout.channels.lanes.get(site.tensor)
    if gain < ABSORBED_DB:
        return ()
    if lane is not None and layout.absorbs(lane, site):
        by_variable = layout.by_variable(lane, scales)
        return scale_channels(graph, layout.channels, by_variable)
    return _insert(graph, site, scales) if gain >= INSERTED_DB else ()


def _insert(graph: onnx.GraphProto, site: _Site, scales: Array) -> list[str]:
    """Divide the tensor before its products, by an operator of its own."""
    view = View.of(graph)
    name = free_name(graph, f"{site.tensor}/smooth")
    factors = numpy_helper.from_array((1 / scales).astype(np.float32), f"{name}/by")
    graph.initializer.append(factors)
    node = helper.make_node("Mul", [site.tensor, factors.name], [name], name)
    for reader, weights in zip(site.readers, site.weights, strict=True):
        heavy = weights * scales[:, None]
        turned = bool(integer(reader, "transB", 0))
        replace_constant(view, reader, 1, heavy.T if turned else heavy)
        reader.input[0] = name
    names = {reader.name for reader in site.readers}
    at = next(at for at, one in enumerate(graph.node) if one.name in names)
    graph.node.insert(at, node)
    return sorted(names)
