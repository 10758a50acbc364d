"""Retrieval: whether a sample's partner is among its nearest others."""

from dataclasses import dataclass

import numpy as np

from quarterdeck_controller.optimize.metric.agree import agree_by_cosine
from quarterdeck_controller.optimize.metric.evidence import Ratio
from quarterdeck_controller.optimize.metric.metric import (
    About,
    Array,
    Evidence,
    OfClass,
    Outputs,
    finite,
    misfit,
    pick,
)

_QUERIES = 256


@dataclass(frozen=True, slots=True)
class Found(Ratio):
    """The share of queries that found a partner; labels are pairs, no classes."""

    def by_class(self, labels: Array | None) -> tuple[OfClass, ...]:
        """Return nothing."""
        del labels
        return ()


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall at ``k`` by cosine over the samples themselves.

    Every sample seeks the others of its label, which is the number or name of a pair
    or group. A sample without another of its label takes no part but can be found.
    Equally near ones come in the order of the samples.
    """

    about: About
    k: int = 1

    def evidence(
        self, outputs: Outputs, labels: Array | None, reference: Outputs
    ) -> Evidence:
        """Return which samples found a partner; see ``Metric``."""
        del reference
        output = pick(outputs, self.about.output)
        if labels is None or labels.ndim != 1 or labels.dtype.kind == "f":
            raise misfit("recall takes one pair or group a sample as labels")
        if not isinstance(output, np.ndarray):
            raise misfit("recall takes embeddings of one shape")
        whole, ok = output.reshape(len(output), -1).astype(np.float64), finite(output)
        whole[~ok] = 0
        size = np.linalg.norm(whole, axis=1, keepdims=True)
        unit = whole / np.where(size == 0, 1, size)
        group = np.unique(labels, return_inverse=True)[1].reshape(-1)
        hits = np.concatenate(
            [
                self._hits(
                    unit, group, np.arange(at, min(at + _QUERIES, len(unit))), ok
                )
                for at in range(0, len(unit), _QUERIES)
            ]
        )
        partnered = np.bincount(group)[group] > 1
        return Found((hits & ok & partnered) * 1.0, partnered * 1.0)

    def agrees(self, outputs: Outputs, reference: Outputs) -> Array:
        """Return where the cosine of both embeddings is near 1; see ``Metric``."""
        return agree_by_cosine(
            pick(outputs, self.about.output), pick(reference, self.about.output)
        )

    def _hits(self, unit: Array, group: Array, rows: Array, ok: Array) -> Array:
        near = unit[rows] @ unit.T
        near[:, ~ok] = -np.inf
        near[np.arange(len(rows)), rows] = -np.inf
        best = np.argsort(-near, axis=1, kind="stable")[:, : self.k]
        found = (group[best] == group[rows, None]) & (
            np.take_along_axis(near, best, axis=1) > -np.inf
        )
        return np.asarray(found.any(axis=1))
