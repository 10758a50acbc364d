"""Golden vectors: which samples, how closely, and the file that carries them.

A device replays the inputs one at a time and compares with the float model's scores.
All but ``encode`` and ``decode`` is pure.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck_controller.optimize.metric.score import classes_of
from quarterdeck_controller.optimize.profile import GoldenPolicy
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Golden

Array = NDArray[Any]

ERROR_FLOOR = 0.05
"""A device whose error stays below this passes, however exact the variant was here:
a twentieth of the scores is what another order of additions may cost an int8 model."""

ERROR_SLACK = 2.5
"""How many times the error measured here a device may show where no processor of its
class was tried, not even an emulated one: 8 dB. Kernels that are right for the recipe
stay within 4 dB of each other (25.9 to 22.4 dB over VNNI, AVX2 and ARM); saturating
ones lose 13 dB and are caught."""

AGREEMENT_SLACK = 0.05
"""How much less than the class's agreement a device may show: of 32 vectors, one or
two that fall to the other side on another instruction set."""

SEVERAL = 8
"""From so many clear vectors on, one may fall to the other side: five in a hundred of
fifteen is none, and one is what a hair decides."""

TINY = 1e-38

MARGIN = 0.1
"""Lead of the best score from which a vector's margin is clear, as a share of what best
scores are: twice the error floor. Not of all scores: of two hundred probabilities most
are near zero, and a share of their mean would call every vector clear."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the model's scores are, over all samples that choose.

    Half the golden vectors are the hardest samples, whose scores may be far smaller
    than others: an error is told as a share of all.

    Attributes:
        rms: Root-mean-square of all scores.
        peak: Root-mean-square of each sample's largest magnitude.
    """

    rms: float
    peak: float


@dataclass(frozen=True, slots=True)
class Compared:
    """How closely scores reproduce the golden ones.

    Attributes:
        clear: How many vectors have a clear margin.
        agreement: Share of those with the same top class; 1 when there are none.
        error: Root-mean-square error as a share of the scale.
    """

    clear: int
    agreement: float
    error: float


def choose_vectors(
    scores: Array, labels: Array | None, *, count: int, seed: int
) -> tuple[int, ...]:
    """Return the samples to replay, by the float model's ``scores``.

    Half have the lowest margins, a quarter is taken evenly from the classes and a
    quarter at random; scores that are no classes are sampled at random.
    """
    total = len(scores)
    count = min(count, total)
    order = np.random.default_rng(seed).permutation(total)
    chosen: dict[int, None] = {}
    if classes_of(scores) is not None:
        by_margin = np.argsort(margins(scores), kind="stable")
        chosen.update(dict.fromkeys(by_margin[: count // 2].tolist()))
        kinds = scores.argmax(axis=1) if labels is None else labels
        _spread(chosen, kinds, order, count // 2 + count // 4)
    for row in order.tolist():
        if len(chosen) >= count:
            break
        chosen.setdefault(row)
    return tuple(sorted(chosen))


def margins(scores: Array) -> Array:
    """Return by how much each sample's best score leads the next one."""
    flat = scores.reshape(len(scores), -1)
    if flat.shape[1] == 1:
        return np.full(len(flat), inf)
    top = np.partition(flat, -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])


def scale_of(scores: Array) -> Scale:
    """Return how large ``scores``, samples first, are."""
    flat = scores.reshape(len(scores), -1)
    return Scale(_rms(flat), _rms(np.abs(flat).max(axis=1)))


def least_agreement(clear: int, policy: GoldenPolicy) -> float:
    """Return the share of ``clear`` vectors that must keep the top class here."""
    if clear < SEVERAL:
        return policy.min_agreement
    return min(policy.min_agreement, 1 - 1 / clear)


def device_scale(expected: Array, golden: Golden) -> Scale:
    """Return the scale by which a device tells its error, which knows no others."""
    return Scale(_rms(expected), golden.margin / MARGIN)


def thresholds(
    expected: Array, scale: Scale, limit: float | None, policy: GoldenPolicy
) -> Golden:
    """Return how closely a device must reproduce ``expected``.

    Args:
        expected: The float model's scores of the vectors, samples first.
        scale: Of all the float model's scores.
        limit: The largest error that a device may show by what was measured
            (``measure.fidelity.tolerance``), never past what the class demands. For a
            refused variant None: it is held to the class's demand, not to its own
            error.
        policy: What the class demands.
    """
    error = policy.max_error if limit is None else min(policy.max_error, limit)
    # a device knows the vectors alone, and tells its error as a share of theirs
    own = error * scale.rms / max(_rms(expected), TINY)
    clear = int((margins(expected) >= MARGIN * scale.peak).sum())
    slack = max(AGREEMENT_SLACK, 1 / clear) if clear >= SEVERAL else AGREEMENT_SLACK
    least = least_agreement(clear, policy) - slack
    return Golden(
        count=len(expected),
        min_agreement=max(0.0, round(least, 6)),
        margin=MARGIN * scale.peak,
        max_error=max(own, TINY),
    )


def compare(expected: Array, got: Array, scale: Scale) -> Compared:
    """Return how closely ``got`` reproduces ``expected``."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return Compared(clear=len(expected), agreement=0.0, error=inf)
    flat = expected.reshape(len(expected), -1).astype(np.float64)
    other = got.reshape(len(got), -1).astype(np.float64)
    clear = margins(flat) >= MARGIN * scale.peak
    same = flat.argmax(axis=1) == other.argmax(axis=1)
    agreement = float(same[clear].mean()) if clear.any() else 1.0
    error = _rms(other - flat) / max(scale.rms, TINY)
    return Compared(int(clear.sum()), agreement, error)


def reproduces(compared: Compared, golden: Golden) -> bool:
    """Return whether that, told by ``device_scale``, is close enough."""
    return (
        compared.error <= golden.max_error
        and compared.agreement >= golden.min_agreement
    )


def encode(inputs: Mapping[str, Array], output: str, expected: Array) -> bytes:
    """Return the bytes of ``golden.npz``; the same arrays give the same bytes."""
    arrays = {f"input:{name}": array for name, array in inputs.items()}
    arrays[f"expected:{output}"] = expected
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, always
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array))
    return buffer.getvalue()


def decode(payload: bytes) -> tuple[dict[str, Array], str, Array]:
    """Return inputs, the output's name and the expected scores of ``golden.npz``.

    Raises:
        RejectedError: ``MALFORMED`` when the bytes are no such file.
    """
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RejectedError(Code.MALFORMED, f"golden.npz: {error}") from error
    expected = {k[9:]: v for k, v in arrays.items() if k.startswith("expected:")}
    inputs = {k[6:]: v for k, v in arrays.items() if k.startswith("input:")}
    if len(expected) != 1 or not inputs or len(arrays) != 1 + len(inputs):
        raise RejectedError(
            Code.MALFORMED, f"golden.npz holds {', '.join(arrays) or 'nothing'}"
        )
    output, scores = next(iter(expected.items()))
    return inputs, output, scores


def _spread(chosen: dict[int, None], kinds: Array, order: Array, until: int) -> None:
    queues = [order[kinds[order] == kind].tolist() for kind in np.unique(kinds)]
    while len(chosen) < until and any(queues):
        for queue in queues:
            while queue and queue[-1] in chosen:
                queue.pop()
            if queue and len(chosen) < until:
                chosen[queue.pop()] = None


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
