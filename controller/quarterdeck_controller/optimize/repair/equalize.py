"""Cross-layer equalization: give the channels of a tensor like ranges.

A scale for a whole tensor, of weights or activations, is set by its widest channel; a
channel much narrower keeps few levels. Nagel et al. 2019 (arXiv 1906.04721) divide a
channel where it is made and multiply it where it is read by the root of the ratio of
the two ranges. Here that holds for all that makes and all that reads a channel, through
residual sums and concatenations, and the range of the activation counts as well: in
logarithms, half of how far the makers are from their mean, less half of how far the
readers are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.repair.channels import Channels, Lane, Role
from quarterdeck_controller.optimize.repair.graph import Array, View
from quarterdeck_controller.optimize.repair.observe import channel_peaks
from quarterdeck_controller.optimize.repair.rules import find_channels
from quarterdeck_controller.optimize.repair.scaling import (
    by_constant,
    ranges,
    scale_channels,
)

ROUNDS = 60
DAMPING = 0.7
"""Scales of neighbouring layers depend on one another; whole steps may swing."""
STILL = 1e-3
LARGEST = float(np.log(2.0**12))
DEAD = 1e-6
"""A channel below this share of the widest carries nothing to go by."""
WORTH = 4.0
"""Scales of a space closer together than this factor are not worth a change."""
HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")


Peaks = Mapping[str, Array]
"""The largest magnitude of each channel of a tensor."""


def equalize(
    model: onnx.ModelProto, stored: Stored, *, batch: int, rows: Sequence[int]
) -> tuple[str, ...]:
    """Change ``model`` in place and return the operators that changed.

    Args:
        model: A float graph whose operators have names.
        stored: Samples that tell the ranges of activations, and whether a Clip's
            upper end is ever reached: where it is, its channels stay as they are.
        batch: How many may be run at once.
        rows: Which samples.
    """
    channels = find_channels(model.graph)
    if not any(factor.weight for factor in channels.factors):
        return ()
    lanes = _watched(model.graph, channels)
    peaks = channel_peaks(model, lanes, stored, batch=batch, rows=rows)
    _pin_reached(channels, peaks)
    scales = choose_scales(model.graph, channels, peaks)
    return scale_channels(model.graph, channels, scales)


def choose_scales(graph: onnx.GraphProto, channels: Channels, peaks: Peaks) -> Array:
    """Return a scale for each variable; 1 where there is nothing to mend.

    Args:
        graph: A float graph.
        channels: What was found in it.
        peaks: Of tensors that are quantized.
    """
    roots, free = channels.roots(), channels.free()
    weights = _weights(View.of(graph), channels, roots)
    made = {name: roots[channels.lanes[name].ids] for name in peaks}
    logs = np.zeros(len(roots))
    for _ in range(ROUNDS):
        makes, reads = _Mean.over(free), _Mean.over(free)
        for name, seen in peaks.items():
            makes.add(made[name], seen / np.exp(logs[made[name]]))
        for weight in weights:
            weight.tell(logs, makes, reads)
        both = (makes.counts > 0) & (reads.counts > 0)
        step = np.where(both, (makes.mean() - reads.mean()) / 2, 0.0)
        logs = np.clip(logs + DAMPING * step, -LARGEST, LARGEST)
        if not np.abs(step).max(initial=0) > STILL:
            break
    return np.exp(_worth(logs[roots], channels))


@dataclass(frozen=True, slots=True)
class _Mean:
    """The mean over tensors of how far each channel is from the tensor's mean, logs."""

    free: Array
    sums: Array
    counts: Array

    @classmethod
    def over(cls, free: Array) -> "_Mean":
        return cls(free, np.zeros(len(free)), np.zeros(len(free)))

    def add(self, ids: Array, found: Array) -> None:
        """Count one tensor in: its channels' variables and ranges."""
        lives = (found > DEAD * found.max(initial=0)) & self.free[ids]
        if lives.sum() > 1:
            logs = np.log(found[lives])
            np.add.at(self.sums, ids[lives], logs - logs.mean())
            np.add.at(self.counts, ids[lives], 1)

    def mean(self) -> Array:
        return self.sums / np.maximum(self.counts, 1)


@dataclass(frozen=True, slots=True)
class _Weight:
    """The magnitudes of a weight, reduced to its channels.

    Attributes:
        ends: Variables of the channels it reads or makes, as they broadcast.
    """

    value: Array
    ends: tuple[tuple[Role, Array], ...]

    def tell(self, logs: Array, makes: _Mean, reads: _Mean) -> None:
        """Say how wide its channels would be by these scales."""
        scaled = np.array(self.value)
        for role, ids in self.ends:
            scaled *= np.exp(logs[ids] if role == "reads" else -logs[ids])
        for role, ids in self.ends:
            there, found = ranges(scaled, ids)
            (makes if role == "makes" else reads).add(there, found)


def _weights(view: View, channels: Channels, roots: Array) -> list[_Weight]:
    found = []
    for factors in by_constant(channels.factors):
        node, slot = factors[0].node, factors[0].slot
        value = view.constant(node.input[slot])
        if not factors[0].weight or value is None:
            continue
        ends = tuple((factor.role, roots[factor.ids]) for factor in factors)
        wide = [max(sizes) for sizes in zip(*(i.shape for _, i in ends), strict=True)]
        over = tuple(at for at, size in enumerate(wide) if size == 1)
        top = np.abs(value.astype(np.float64)).max(axis=over, keepdims=True, initial=0)
        found.append(_Weight(top, ends))
    return found


def _worth(logs: Array, channels: Channels) -> Array:
    """Return the scales, none where those of a space are close together."""
    kept, spaces = logs.copy(), channels.spaces()
    for space in np.unique(spaces):
        inside = spaces == space
        if np.ptp(logs[inside]) < np.log(WORTH):
            kept[inside] = 0.0
    return kept


def _watched(graph: onnx.GraphProto, channels: Channels) -> dict[str, Lane]:
    """Return the tensors that operators with weights read, and that a Clip reads."""
    heavy = [node.input[0] for node in graph.node if node.op_type in HEAVY]
    sums = [node.output[0] for node in graph.node if node.op_type == "Add"]
    clips = [bound.node.input[0] for bound in channels.bounds]
    names = dict.fromkeys([*heavy, *sums, *clips])
    free = channels.free()
    lanes = {name: channels.lanes[name] for name in names if name in channels.lanes}
    return {name: lane for name, lane in lanes.items() if free[lane.ids].any()}


def _pin_reached(channels: Channels, peaks: Peaks) -> None:
    for bound in channels.bounds:
        seen = peaks.get(bound.node.input[0])
        if np.isfinite(bound.high) and (seen is None or (seen >= bound.high).any()):
            channels.pin(bound.ids)
