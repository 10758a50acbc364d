"""Tune the integers of a quantized graph towards the float one: same nodes and kernels.

``bias`` takes the mean error of every output channel into the bias (Nagel et al. 2019,
arXiv 1906.04721); ``round`` rounds weights by what they multiply (``rounding``). Layers
are taken in blocks in the graph's order, so that later ones see what earlier ones
became. A block is kept only when the outputs' error falls on calibration samples that
it was not tuned on, and by more than chance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log10
from types import MappingProxyType

import numpy as np
import onnx

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.recipe import Repair
from quarterdeck_controller.optimize.repair.graph import Array
from quarterdeck_controller.optimize.repair.layers import Layer, find_layers
from quarterdeck_controller.optimize.repair.observe import (
    BATCH,
    open_graph,
    spaced,
    tensors,
)
from quarterdeck_controller.optimize.repair.rounding import round_weights
from quarterdeck_controller.optimize.session import infer, tensor_outputs

SAMPLES = 96
HELD_OUT = 3
"""Every so many samples, one is held out."""
FEWEST = 8
TINY = 1e-30
BLOCKS = 8
VECTORS = 2048
"""Inputs of a layer from which second moments come."""
WIDEST = 2304
"""Inputs of an output past which the moments' inverse takes too long."""
MOMENT_BYTES = 1 << 27
"""Layers are rounded together while their moments fit in so many bytes."""
WORK = 1e12
"""Multiplications that rounding may take in all; layers past it stay as they are."""


def tune(
    reference: onnx.ModelProto,
    quantized: onnx.ModelProto,
    repairs: tuple[Repair, ...],
    stored: Stored,
    batch: int,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return ``quantized`` with other integers, and what became better.

    Args:
        reference: The float graph it was made from.
        quantized: A graph in the QDQ format whose operators kept their names; it is
            not changed.
        repairs: What to do, in order; those for float graphs are passed over.
        stored: Calibration samples.
        batch: How many may be run at once.
    """
    wanted = [name for name in repairs if name in TUNERS]
    if not wanted:
        return quantized, ()
    if stored.count < FEWEST:
        told = (
            f"{' and '.join(wanted)} left out: {stored.count} calibration samples, "
            f"at least {FEWEST} are needed to hold some out"
        )
        return quantized, (told,)
    copy = onnx.ModelProto()
    copy.CopyFrom(quantized)
    work = _Work.of(reference, copy, stored, batch)
    if not work.layers:
        return quantized, (f"{' and '.join(wanted)} found no integer weights",)
    for name in wanted:
        work.apply(name, TUNERS[name])
    return copy, tuple(work.notes)


@dataclass(slots=True)
class _Work:
    reference: onnx.ModelProto
    quantized: onnx.ModelProto
    stored: Stored
    batch: int
    learn: tuple[int, ...]
    held: tuple[int, ...]
    layers: list[Layer]
    expected: list[dict[str, Array]]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        reference: onnx.ModelProto,
        quantized: onnx.ModelProto,
        stored: Stored,
        batch: int,
    ) -> "_Work":
        rows = spaced(stored.count, SAMPLES)
        held = rows[HELD_OUT - 1 :: HELD_OUT]
        learn = tuple(row for row in rows if row not in held)
        layers = list(find_layers(reference, quantized))
        few = min(batch, BATCH)
        expected = list(_outputs(reference, stored, few, held)) if layers else []
        return cls(reference, quantized, stored, few, learn, held, layers, expected)

    def apply(self, name: Repair, tuner: "Tuner") -> None:
        """Tune block by block, and keep what makes the held-out error fall."""
        start = least = self.noise()
        kept = 0
        for block in tuner.blocks(self.layers):
            before = [tensor.SerializeToString() for tensor in _integers_of(block)]
            touched = tuner.tune(self, block)
            found = self.noise() if touched else least
            if is_better(found, least):
                least, kept = found, kept + touched
                continue
            for tensor, data in zip(_integers_of(block), before, strict=True):
                tensor.ParseFromString(data)
        told = _told(name, kept, len(self.layers), start.mean(), least.mean())
        self.notes.append(told)

    def noise(self) -> Array:
        """Return the noise of each held-out sample, as a share of an output's power.

        An output that does not have the samples first is as many samples as it has
        entries there.
        """
        found: dict[str, list[Array]] = {}
        power: dict[str, list[Array]] = {}
        outputs = _outputs(self.quantized, self.stored, self.batch, self.held)
        for wanted, got in zip(self.expected, outputs, strict=True):
            for name, one in wanted.items():
                if one.shape != got[name].shape:
                    return np.array([np.inf])
                clear = np.isfinite(one)
                error = np.where(clear, got[name] - one, 0.0)
                found.setdefault(name, []).append(_by_sample(error))
                power.setdefault(name, []).append(_by_sample(np.where(clear, one, 0)))
        shares = [
            np.concatenate(found[name])
            / max(float(np.concatenate(power[name]).mean()), TINY)
            for name in found
        ]
        return np.concatenate(shares) if shares else np.zeros(1)

    def means(self, model: onnx.ModelProto, names: Mapping[str, int]) -> list[Array]:
        """Return the mean of each channel of the tensors in ``names``, by axis."""
        sums: dict[str, Array] = {}
        counts = dict.fromkeys(names, 0)
        for found in self.look(model, list(names)):
            for name, array in found.items():
                moved = np.moveaxis(array, names[name], 0).reshape(
                    array.shape[names[name]], -1
                )
                sums[name] = sums.get(name, 0) + moved.sum(axis=1, dtype=np.float64)
                counts[name] += moved.shape[1]
        return [sums[name] / max(counts[name], 1) for name in names]

    def look(
        self, model: onnx.ModelProto, names: Sequence[str]
    ) -> Iterator[dict[str, Array]]:
        """Yield tensors on the samples that are learned from."""
        yield from tensors(model, names, self.stored, batch=self.batch, rows=self.learn)


def is_better(found: Array, before: Array) -> bool:
    """Tell whether errors fell by more than chance would have it: one standard error.

    Args:
        found: Of each sample, after a change.
        before: Of the same samples.
    """
    if found.shape != before.shape or not np.isfinite(found).all():
        return False
    fell = before - found
    return bool(fell.mean() > fell.std() / np.sqrt(len(fell)))


def _by_sample(array: Array) -> Array:
    """Return the energy of each entry of the first axis."""
    count = array.shape[0] if array.ndim else 1
    flat = array.reshape(count, array.size // max(count, 1))
    energy: Array = (flat**2).sum(axis=1)
    return energy


@dataclass(frozen=True, slots=True)
class Tuner:
    """A repair of integers.

    Attributes:
        blocks: Which layers are tuned together.
        tune: Change them, and return how many changed.
    """

    blocks: Callable[[Sequence[Layer]], list[list[Layer]]]
    tune: Callable[[_Work, list[Layer]], int]


def _even_blocks(layers: Sequence[Layer]) -> list[list[Layer]]:
    biased = [layer for layer in layers if layer.bias is not None]
    each = max(1, -(-len(biased) // BLOCKS))
    return [biased[at : at + each] for at in range(0, len(biased), each)]


def _small_blocks(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Return layers that can be rounded, by how much their moments take."""
    blocks: list[list[Layer]] = []
    size, work, most = 0, 0.0, max(1, -(-len(layers) // BLOCKS))
    for layer in layers:
        bytes_ = 8 * layer.groups * layer.width**2
        cost = layer.groups * layer.width**2 * (VECTORS + 3 * layer.width)
        if layer.width > WIDEST or work + cost > WORK:
            continue
        work += cost
        if not blocks or size + bytes_ > MOMENT_BYTES or len(blocks[-1]) >= most:
            blocks.append([])
            size = 0
        blocks[-1].append(layer)
        size += bytes_
    return blocks


def _correct(work: _Work, block: list[Layer]) -> int:
    wanted = work.means(work.reference, {one.wanted: one.axis for one in block})
    made = work.means(work.quantized, {one.made: one.axis for one in block})
    shifts = zip(block, wanted, made, strict=True)
    return sum(
        layer.add_bias(one - other)
        for layer, one, other in shifts
        if np.isfinite(one - other).all()
    )


def _round(work: _Work, block: list[Layer]) -> int:
    changed = 0
    moments = _moments(work, block)
    for layer in block:
        if not np.isfinite(moments[layer.name]).all():
            continue
        old = layer.rows(layer.levels())
        values = layer.rows(layer.values.astype(np.float64))
        limit = int(np.abs(old).max(initial=1))
        new = round_weights(values, moments[layer.name], layer.scales(), limit)
        if not np.array_equal(old, new):
            layer.write_levels(new)
            changed += 1
    return changed


def _moments(work: _Work, block: list[Layer]) -> dict[str, Array]:
    found = {one.name: np.zeros((one.groups, one.width, one.width)) for one in block}
    most = max(1, VECTORS * work.batch // max(1, len(work.learn)))
    names = list(dict.fromkeys(one.node.input[0] for one in block))
    for arrays in work.look(work.quantized, names):
        for layer in block:
            seen = layer.inputs(arrays[layer.node.input[0]], most)
            found[layer.name] += np.swapaxes(seen, 1, 2) @ seen
    return found


TUNERS: Mapping[Repair, Tuner] = MappingProxyType(
    {"bias": Tuner(_even_blocks, _correct), "round": Tuner(_small_blocks, _round)}
)


def _integers_of(block: Sequence[Layer]) -> Iterator[onnx.TensorProto]:
    for layer in block:
        yield layer.weights.tensor
        if isinstance(layer.bias, onnx.TensorProto):
            yield layer.bias
        elif layer.bias is not None:
            yield layer.bias.tensor


def _outputs(
    model: onnx.ModelProto, stored: Stored, batch: int, rows: Sequence[int]
) -> Iterator[dict[str, Array]]:
    """Yield every output of float as float64."""
    session = open_graph(model)
    names = tensor_outputs(session)
    for feed in stored.batches(batch, rows):
        found = zip(names, infer(session, names, feed), strict=True)
        yield {
            name: array.astype(np.float64)
            for name, array in found
            if array.dtype.kind == "f"
        }


def _told(name: Repair, kept: int, count: int, start: float, end: float) -> str:
    if not kept:
        return f"{name} changed nothing: the held-out error did not fall"
    gain = 10 * log10(start / max(end, TINY))
    return (
        f"{name} changed {kept} of {count} operators; the held-out error fell by "
        f"{gain:.1f} dB"
    )
