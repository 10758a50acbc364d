"""The optimizer on the demo's models, beside quantize_static with its defaults."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from quarterdeck_controller.demo.material import float_model, prepare
from quarterdeck_controller.optimize.data.samples import (
    Array,
    Data,
    Samples,
    load_samples,
)
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.metric import score
from quarterdeck_controller.optimize.optimizer import optimize_all
from quarterdeck_controller.optimize.profile import DEFAULT_CLASSES, load_profile
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.sandbox import Bounds, Sandbox
from quarterdeck_controller.optimize.search import trial
from tests.bench.table import Figure
from tests.bench.timing import seconds

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quarterdeck"
PEER = "quantize_static"
DEFAULTS = Recipe("static", "s8s8", per_channel=False, calibration="minmax")


@dataclass(frozen=True, slots=True)
class Peer:
    """What the runtime's own quantizer made of a model."""

    seconds: float
    accuracy: float
    size_ratio: float
    latency_ratio: float


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Optimize each model for every class, and quantize it as the manual says."""
    logging.getLogger().setLevel(logging.ERROR)
    material = prepare(CACHE, folder / "data", ["field"])
    data = Data(load_samples(material.calibration), load_samples(material.evaluation))
    found: list[Figure] = []
    for version in (1,) if quick else (1, 2, 3):
        work = folder / f"peer-{version}"
        work.mkdir()
        found += _one_model(float_model(version), data, work)
    return found


def _one_model(model: Path, data: Data, work: Path) -> list[Figure]:
    profiles = [load_profile(name) for name in DEFAULT_CLASSES]
    evaluations: list[Evaluation] = []
    spent = seconds(
        lambda: evaluations.extend(
            one.evaluation for one in optimize_all(model, data, profiles)
        )
    )
    peer = _peer(model, data, work)
    tried = len({it.recipe for e in evaluations for it in e.tried})
    told = f"{len(profiles)} classes, {tried} recipes built and measured; peer: one"
    samples = len(data.evaluation)
    total = Figure(
        f"{model.stem}: all classes", 1, spent, "s", PEER, peer.seconds, told
    )
    return [total, *(f for e in evaluations for f in _figures(model, e, peer, samples))]


def _figures(
    model: Path, evaluation: Evaluation, peer: Peer, samples: int
) -> list[Figure]:
    variant, reference = evaluation.variant, evaluation.reference
    assert variant is not None
    assert evaluation.size_ratio is not None
    assert evaluation.latency_ratio is not None
    name = f"{model.stem} {evaluation.device_class}"
    recipe = f"{evaluation.recipe}, {evaluation.decision}"
    return [
        Figure(
            f"{name}: accuracy",
            samples,
            100 * variant.score,
            "%",
            PEER,
            100 * peer.accuracy,
            f"{recipe}; float {100 * reference.score:.1f} %",
        ),
        Figure(
            f"{name}: size",
            1,
            evaluation.size_ratio,
            "of float",
            PEER,
            peer.size_ratio,
            f"float {reference.bytes:,} bytes",
        ),
        Figure(
            f"{name}: latency p50",
            200,
            evaluation.latency_ratio,
            "of float",
            PEER,
            peer.latency_ratio,
            f"float {reference.latency.p50_ms:.3f} ms, {evaluation.latency_known}",
        ),
    ]


def _peer(model: Path, data: Data, work: Path) -> Peer:
    """Quantize with the runtime's defaults; our own steps measure the outcome."""
    sandbox = Sandbox(work / "steps", Bounds())
    try:
        source = trial.inspect(sandbox, model)
        ready = trial.get_ready(sandbox, work, model, source, data)
        plain = work / "plain.onnx"
        tried: list[trial.Trial] = []

        def quantize_and_measure() -> None:
            _quantize(model, ready.data.calibration, plain, work)
            variant = trial.Variant(DEFAULTS, plain)
            tried.append(trial.run_variant(sandbox, ready, variant, (0,), 1))

        spent = seconds(quantize_and_measure)
        return _judged(spent, tried[0], ready)
    finally:
        sandbox.close()


def _judged(spent: float, tried: trial.Trial, ready: trial.Ready) -> Peer:
    measured, labels = tried.measured, ready.data.evaluation.labels
    if measured is None or measured.reference_times is None:
        raise RuntimeError(f"{PEER}: {tried.failure}")
    assert tried.scores is not None
    assert labels is not None
    return Peer(
        spent,
        score.right(tried.scores, labels) / len(labels),
        tried.bytes / ready.model.stat().st_size,
        measured.times.p50_ms / measured.reference_times.p50_ms,
    )


def _quantize(model: Path, calibration: Samples, out: Path, work: Path) -> None:
    prepared = work / "preprocessed.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(out), Reader(calibration))


class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
    """Gives the calibration samples one at a time."""

    def __init__(self, samples: Samples) -> None:
        self._rows = (
            {k: np.ascontiguousarray(v[n : n + 1]) for k, v in samples.inputs.items()}
            for n in range(len(samples))
        )

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample; None at the end."""
        return next(self._rows, None)
